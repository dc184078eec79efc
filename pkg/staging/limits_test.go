package staging

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// limitedNode is a volume on a device, and a tree of plain files as control groups.
type limitedNode struct {
	t       *testing.T
	pool    *pool.Pool
	id      volume.ID
	device  iolimit.Device
	limiter *iolimit.Limiter
	// readIOPS is the file of the group at the root, which keeps the last line that was written.
	readIOPS string
}

func newLimitedNode(t *testing.T) *limitedNode {
	t.Helper()
	disks.RequireMachineRoot(t) // images need loop devices
	n := &limitedNode{t: t, pool: openPool(t, t.TempDir())}
	t.Cleanup(func() { fixture.Must(t, n.pool.Close()) })
	n.id = createImage(t, n.pool)
	v := find(t, n.pool, n.id)
	node, err := v.Attach(t.Context(), loopdev.ReadWrite)
	fixture.Must(t, err)
	fixture.Must(t, node.Close())
	t.Cleanup(func() { fixture.Must(t, v.Release(nil)) })
	fixture.Must(t, v.eachDevice(func(d *loopdev.Device) error {
		n.device = iolimit.LoopDevice(d.Number())
		return nil
	}))
	n.makeGroups()
	return n
}

func (n *limitedNode) makeGroups() {
	n.t.Helper()
	root := n.t.TempDir()
	fixture.Must(n.t, os.MkdirAll(filepath.Join(root, "blkio/kubepods"), 0o750))
	for _, name := range []string{"read_bps", "write_bps", "read_iops", "write_iops"} {
		for _, group := range []string{"blkio", "blkio/kubepods"} {
			file := filepath.Join(root, group, "blkio.throttle."+name+"_device")
			fixture.Must(n.t, os.WriteFile(file, nil, 0o600))
		}
	}
	n.readIOPS = filepath.Join(root, "blkio/blkio.throttle.read_iops_device")
	n.limiter = iolimit.New(iolimit.Options{Cgroups: root})
}

func (n *limitedNode) wantReadIOPS(want, when string) {
	n.t.Helper()
	got, err := os.ReadFile(n.readIOPS)
	fixture.Must(n.t, err)
	if want = n.device.String() + " " + want; string(got) != want {
		n.t.Errorf("%s: %q, want %q", when, got, want)
	}
}

func TestIOLimitsOfAnotherVolumeLeaveTheDevice(t *testing.T) {
	n := newLimitedNode(t)
	fixture.Must(t, n.limiter.Set("gone", volume.IOLimits{ReadIOPS: 7}, n.device))
	n.wantReadIOPS("7", "another volume has gone")
	fixture.Must(t, find(t, n.pool, n.id).LimitNew(n.limiter))
	n.wantReadIOPS("0", "a volume without limits has the device")
}
