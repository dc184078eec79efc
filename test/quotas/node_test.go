//go:build vm

package quotas

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// filesystems are those of the machine's disks, by name.
var filesystems = []string{disks.XFS, disks.Ext4}

const (
	mib = 1 << 20
	// slack is what a volume may be full before its size: the directory, the blocks that map a
	// file's.
	slack = 64 << 10
	// firstID is where the IDs of volumes begin (pkg/backend/projquota); kubelet takes its own from
	// kubeletID on.
	firstID   = 1 << 30
	kubeletID = 1048577
	// atOnce is how many calls are under way.
	atOnce = 8
)

// node is a node with a pool on one of the machine's disks.
type node struct {
	*fixture.Driver

	t      *testing.T
	disk   string // its mount point
	config string // the path of the driver's configuration
}

// newNode has no driver yet. What is below its directory outlives the test, as the disk does.
func newNode(t *testing.T, disk, name, poolOptions string) *node {
	t.Helper()
	dir := filepath.Join(disk, name)
	fixture.Must(t, os.MkdirAll(dir, 0o755))
	binary := fixture.Build(t)
	n := &node{t: t, disk: disk}
	n.Driver = fixture.NewDriver(t, process.Options{Binary: binary, Dir: dir})
	n.config = filepath.Join(t.TempDir(), "driver.yaml")
	n.Must(os.WriteFile(n.config,
		[]byte("apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\npools:\n- name: p\n"+
			"  path: "+n.Path("pool")+"\n  default: true\n  quota: required\n"+poolOptions), 0o600))
	n.SetArgs("--config", n.config)
	return n
}

func (n *node) create(
	ctx context.Context, name string, volumeType volume.Type, size int64,
) (string, error) {
	resp, err := n.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size, LimitBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
		Parameters:         map[string]string{volume.ParamType: string(volumeType)},
	})
	return resp.GetVolume().GetVolumeId(), err
}

// createWith takes further parameters of a class.
func (n *node) createWith(
	ctx context.Context, name string, params map[string]string,
) (string, error) {
	resp, err := n.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: mib}, Parameters: params,
		VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
	})
	return resp.GetVolume().GetVolumeId(), err
}

func (n *node) delete(ctx context.Context, id string) error {
	_, err := n.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// target is where a pod would see a volume. Kubelet makes its parent.
func (n *node) target(pod string) string {
	return filepath.Join(n.KubeletDir(), "pods", pod, "mount")
}

func (n *node) publish(ctx context.Context, id, target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	_, err := n.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          id,
		TargetPath:        target,
		StagingTargetPath: filepath.Join(n.KubeletDir(), "staging"),
		VolumeCapability:  fixture.MountCapability(""),
	})
	return err
}

func (n *node) unpublish(ctx context.Context, id, target string) error {
	_, err := n.Node.NodeUnpublishVolume(ctx,
		&csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target})
	return err
}

// stats are what kubelet is told of a unit.
func (n *node) stats(
	ctx context.Context, id, target string, unit csi.VolumeUsage_Unit,
) (*csi.VolumeUsage, error) {
	resp, err := n.Node.NodeGetVolumeStats(ctx,
		&csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: target})
	if err != nil {
		return nil, err
	}
	for _, u := range resp.GetUsage() {
		if u.GetUnit() == unit {
			return u, nil
		}
	}
	return nil, fmt.Errorf("no %s among %v", unit, resp.GetUsage())
}

// volumes are the IDs that the driver lists.
func (n *node) volumes() []string {
	n.t.Helper()
	resp, err := n.Controller.ListVolumes(n.t.Context(), &csi.ListVolumesRequest{})
	n.Must(err)
	var ids []string
	for _, e := range resp.GetEntries() {
		ids = append(ids, e.GetVolume().GetVolumeId())
	}
	return ids
}

// wantNothingLeft: when all volumes are deleted, no project has a limit and nothing counts, and the
// pool is empty.
func (n *node) wantNothingLeft() {
	n.t.Helper()
	if ids := n.volumes(); len(ids) > 0 {
		n.t.Errorf("the driver still lists %q", ids)
	}
	n.eventually("all is purged, and no quota is left", func() bool {
		return len(n.entries("tmp")) == 0 && len(n.entries("trash")) == 0 &&
			len(guest.ProjectQuotas(n.t, n.disk, firstID)) == 0
	})
	for _, dir := range []string{"volumes", "snapshots"} {
		if left := n.entries(dir); len(left) > 0 {
			n.t.Errorf("%s/ has %q", dir, left)
		}
	}
}

func (n *node) entries(dir string) []string {
	n.t.Helper()
	return n.Entries("pool", dir)
}

func (n *node) eventually(what string, done func() bool) {
	n.t.Helper()
	fixture.Eventually(n.t, what, done, func() any {
		return fmt.Sprintf("trash/ %q, quotas %+v", n.entries("trash"),
			guest.ProjectQuotas(n.t, n.disk, firstID))
	})
}

// fill writes to the end of a file as a pod does, until it is full, and says how much went in.
func fill(path string) (written int64, err error) {
	err = guest.AsPod(func() error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		content := make([]byte, 64<<10)
		for len(content) >= 4<<10 {
			n, err := f.Write(content)
			written += int64(n)
			if isFull(err) {
				content = content[:len(content)/4] // what is left may be less
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return written, err
}

// isFull says whether a writer was told that there is no room. XFS answers ENOSPC for a project,
// ext4 EDQUOT.
func isFull(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }
