package driver

import (
	"context"
	"net"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// nodeFacts is what sidecars ask of the Node service: where the node is, and what it can do.
// Whoever takes one of them over cannot have anything mounted; the other calls answer
// UNIMPLEMENTED.
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

// NodeGetCapabilities is for external-resizer, which must know who grows a volume.
func (n nodeFacts) NodeGetCapabilities(
	ctx context.Context, req *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	return n.node.NodeGetCapabilities(ctx, req)
}

// listenForSidecars makes the second socket; nil when none is configured.
func listenForSidecars(cfg Config) (net.Listener, error) {
	if cfg.SidecarEndpoint == "" {
		return nil, nil //nolint:nilnil // there is no such socket, and that is no error
	}
	return ListenForGroup(cfg.SidecarEndpoint, cfg.SidecarGroup)
}
