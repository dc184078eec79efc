package main

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/csi-hostpath/csi-hostpath/pkg/identity"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
)

// growth is what external-resizer asks in node deployment: whether the driver grows volumes. The
// answer is that their nodes do. Then the resizer calls nobody, and only writes the new size to the
// volume (external-resizer pkg/resizer/trivial_resizer.go). So one resizer serves all nodes,
// instead of one on each that reads a lease every few seconds.
type growth struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
}

// ControllerGetCapabilities has none.
func (growth) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{}, nil
}

// NodeGetCapabilities says that nodes grow volumes.
func (growth) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{{
		Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{
			Type: csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		}},
	}}}, nil
}

// newGrowthServer returns a server for the resizer of a driver.
func newGrowthServer(driverName string, options rpc.Options) *grpc.Server {
	server := rpc.NewServer(rpc.ServerOptions(options))
	ready := func() error { return nil }
	csi.RegisterIdentityServer(server, &identity.Server{Name: driverName, NotReady: ready})
	csi.RegisterControllerServer(server, growth{})
	csi.RegisterNodeServer(server, growth{})
	return server
}
