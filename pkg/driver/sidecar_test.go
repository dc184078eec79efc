package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const sidecarGroup = 65532

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives a socket to a group")
	}
}

// connectAs connects as another user and group. It changes them for its thread only, which ends
// with the goroutine.
func connectAs(path string, uid, gid int) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(fd)
		// The group before the user: after the change of the user the thread may not change its group.
		address := &unix.SockaddrUnix{Name: path}
		done <- errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid), unix.Connect(fd, address))
	}()
	return <-done
}

func TestSidecarSocketIsForItsGroupAlone(t *testing.T) {
	needRoot(t)
	for _, umask := range []int{0, 0o022, 0o077} {
		func() {
			defer unix.Umask(unix.Umask(umask))
			path := socketIn(t)
			// others may enter the directory, and must be refused at the socket
			if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			l, err := ListenForGroup("unix://"+path, sidecarGroup)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			owner, _ := info.Sys().(*syscall.Stat_t)
			if info.Mode() != fs.ModeSocket|0o660 || owner.Uid != 0 || owner.Gid != sidecarGroup {
				t.Errorf("umask %#o: mode %v, owner %d:%d", umask, info.Mode(), owner.Uid, owner.Gid)
			}
			if err := connectAs(path, sidecarGroup, sidecarGroup); err != nil {
				t.Errorf("umask %#o: the group cannot connect: %v", umask, err)
			}
			if err := connectAs(path, sidecarGroup, sidecarGroup+1); !errors.Is(err, unix.EACCES) {
				t.Errorf("umask %#o: another group: %v", umask, err)
			}
		}()
	}
}

// A default ACL of kubelet's directory would let its users connect, and take the write permission
// from the group.
func TestSocketOfAGroupInheritsNoACL(t *testing.T) {
	dir := disks.New(t, disks.Ext4, 0).Dir
	disks.SetDefaultACL(t, dir)
	path := filepath.Join(dir, "csi.sock")
	l, err := ListenForGroup("unix://"+path, sidecarGroup)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if have := disks.ACLsOf(t, path); len(have) > 0 {
		t.Errorf("the socket has the ACLs %v", have)
	}
	if err := connectAs(path, sidecarGroup, sidecarGroup); err != nil {
		t.Errorf("the group cannot connect: %v", err)
	}
	if err := connectAs(path, disks.ACLUser, sidecarGroup+1); !errors.Is(err, unix.EACCES) {
		t.Errorf("a user of the ACL: %v", err)
	}
}

func TestGroupIsGivenNothingButTheSocket(t *testing.T) {
	needRoot(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "csi.sock")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{victim, link} {
		if err := admitGroup(path, sidecarGroup); err == nil ||
			!strings.Contains(err.Error(), "exchanged") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if info, err := os.Stat(victim); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file at the socket's path: %v, %v", info.Mode(), err)
	}
}

// runDriver runs a driver with one pool and both sockets until the test ends.
func runDriver(t *testing.T) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.NodeName, cfg.KubeletDir = "node-1", t.TempDir()
	cfg.Endpoint, cfg.SidecarEndpoint = "unix://"+socketIn(t), "unix://"+socketIn(t)
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
	needRoot(t)
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
