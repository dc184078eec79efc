package main

import (
	"context"
	"net"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
)

// What external-resizer asks at its start (pkg/resizer/csi_resizer.go, NewResizerFromClient), to
// find out that nodes grow volumes and the controller does not.
func TestResizerFindsThatNodesGrowVolumes(t *testing.T) {
	server := newGrowthServer("local.example.com", rpc.Options{Logger: klog.Background()})
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///resizer",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return listener.Dial()
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || info.GetName() != "local.example.com" {
		t.Errorf("the driver is %q, %v", info.GetName(), err)
	}
	plugin, err := csi.NewIdentityClient(conn).GetPluginCapabilities(t.Context(),
		&csi.GetPluginCapabilitiesRequest{})
	hasController := false
	for _, c := range plugin.GetCapabilities() {
		if c.GetService().GetType() == csi.PluginCapability_Service_CONTROLLER_SERVICE {
			hasController = true
		}
	}
	if err != nil || !hasController {
		t.Errorf("the plugin has no controller: %v, %v", plugin, err)
	}
	controller, err := csi.NewControllerClient(conn).ControllerGetCapabilities(t.Context(),
		&csi.ControllerGetCapabilitiesRequest{})
	if err != nil || len(controller.GetCapabilities()) > 0 {
		t.Errorf("the controller can %v, %v", controller, err)
	}
	node, err := csi.NewNodeClient(conn).NodeGetCapabilities(t.Context(),
		&csi.NodeGetCapabilitiesRequest{})
	if err != nil || len(node.GetCapabilities()) != 1 ||
		node.GetCapabilities()[0].GetRpc().GetType() != csi.NodeServiceCapability_RPC_EXPAND_VOLUME {
		t.Errorf("nodes can %v, %v", node, err)
	}
}
