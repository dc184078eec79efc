package driver

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// runDriver runs a driver with one pool and both sockets until the test ends.
func runDriver(t *testing.T) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.NodeName, cfg.KubeletDir = "node-1", t.TempDir()
	cfg.Endpoint, cfg.SidecarEndpoint = "unix://"+fixture.Socket(t), "unix://"+fixture.Socket(t)
	cfg.Pools = []config.Pool{config.NewPool("a", filepath.Join(t.TempDir(), "a"))}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		stop()
		if err := wait(t, ended); err != nil {
			t.Error(err)
		}
	})
	return cfg
}

func dial(t *testing.T, endpoint string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func waitUntilReady(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	var resp *csi.ProbeResponse
	var err error
	fixture.Eventually(t, "the driver is ready", func() bool {
		resp, err = csi.NewIdentityClient(conn).Probe(t.Context(), &csi.ProbeRequest{})
		return err == nil && resp.GetReady().GetValue()
	}, func() any { return err })
}

func TestSidecarsProvisionButDoNotMount(t *testing.T) {
	disks.RequireRoot(t)
	cfg := runDriver(t)
	sidecar, kubelet := dial(t, cfg.SidecarEndpoint), dial(t, cfg.Endpoint)
	waitUntilReady(t, sidecar)
	access := &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{
			Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		},
	}
	created, err := csi.NewControllerClient(
		sidecar,
	).CreateVolume(
		t.Context(),
		&csi.CreateVolumeRequest{
			Name: "pvc-1", VolumeCapabilities: []*csi.VolumeCapability{access},
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	info, err := csi.NewNodeClient(sidecar).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetNodeId() != "node-1" {
		t.Errorf("NodeGetInfo: %v, %v", info, err)
	}
	if _, err := csi.NewNodeClient(
		sidecar,
	).NodeGetCapabilities(
		t.Context(),
		&csi.NodeGetCapabilitiesRequest{},
	); err != nil {
		t.Errorf("NodeGetCapabilities: %v", err)
	}
	stage := &csi.NodeStageVolumeRequest{
		VolumeId:          created.GetVolume().GetVolumeId(),
		VolumeCapability:  access,
		StagingTargetPath: filepath.Join(cfg.KubeletDir, "staging"),
	}
	publish := &csi.NodePublishVolumeRequest{
		VolumeId:          stage.GetVolumeId(),
		VolumeCapability:  access,
		StagingTargetPath: stage.GetStagingTargetPath(),
		TargetPath:        filepath.Join(cfg.KubeletDir, "target"),
	}
	_, stageErr := csi.NewNodeClient(sidecar).NodeStageVolume(t.Context(), stage)
	_, publishErr := csi.NewNodeClient(sidecar).NodePublishVolume(t.Context(), publish)
	_, unpublishErr := csi.NewNodeClient(
		sidecar,
	).NodeUnpublishVolume(
		t.Context(),
		&csi.NodeUnpublishVolumeRequest{
			VolumeId: publish.GetVolumeId(), TargetPath: publish.GetTargetPath(),
		},
	)
	for _, err := range []error{stageErr, publishErr, unpublishErr} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("a sidecar may mount: %v", err)
		}
	}
	if _, err := csi.NewNodeClient(kubelet).NodeStageVolume(t.Context(), stage); err != nil {
		t.Errorf("kubelet may not mount: %v", err)
	}
	remove := &csi.DeleteVolumeRequest{VolumeId: stage.GetVolumeId()}
	if _, err := csi.NewControllerClient(sidecar).DeleteVolume(t.Context(), remove); err != nil {
		t.Error(err)
	}
}
