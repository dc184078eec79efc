package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// nodeFacts is the part of the Node service that sidecars need: where the node is, and what it can
// do. The other calls are UNIMPLEMENTED, so that a sidecar that was taken over cannot mount.
type nodeFacts struct {
	csi.UnimplementedNodeServer
	node csi.NodeServer
}

var _ csi.NodeServer = nodeFacts{}

// NodeGetInfo is for external-provisioner --node-deployment.
func (n nodeFacts) NodeGetInfo(
	ctx context.Context, req *csi.NodeGetInfoRequest,
) (*csi.NodeGetInfoResponse, error) {
	return n.node.NodeGetInfo(ctx, req)
}

// NodeGetCapabilities is for external-resizer, which must know whether the node expands volumes.
func (n nodeFacts) NodeGetCapabilities(
	ctx context.Context, req *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	return n.node.NodeGetCapabilities(ctx, req)
}
