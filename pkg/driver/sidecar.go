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

// listenForSidecars makes the second socket; nil when none is configured. A sidecar that floods it
// cannot break the connections of the others, but keep one out that starts meanwhile.
func listenForSidecars(ctx context.Context, cfg Config) (net.Listener, error) {
	if cfg.SidecarEndpoint == "" {
		return nil, nil //nolint:nilnil // there is no such socket, and that is no error
	}
	//nolint:contextcheck // it waits for nothing
	l, err := ListenForGroup(cfg.SidecarEndpoint, cfg.SidecarGroup)
	if err != nil {
		return nil, err
	}
	return boundListener(ctx, l, "sidecars", maxSidecarConnections, nobody), nil
}

// listenForKubelet makes the socket for kubelet.
func listenForKubelet(ctx context.Context, cfg Config) (net.Listener, error) {
	l, err := Listen(cfg.Endpoint) //nolint:contextcheck // it waits for nothing
	if err != nil {
		return nil, err
	}
	return boundListener(ctx, l, "kubelet", maxKubeletConnections, oldestOfTheGreediest), nil
}
