package staging

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
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
	// readIOPS is the file of the group at the root. It begins with the last line that was written.
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
	if want = n.device.String() + " " + want; !strings.HasPrefix(string(got), want) {
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

// ByID makes the node's pool the only one.
func (n *limitedNode) ByID(volume.PoolID) (*pool.Pool, error) { return n.pool, nil }

// modify does what ControllerModifyVolume does.
func (n *limitedNode) modify(readIOPS string) {
	n.t.Helper()
	changes, err := volume.ParseMutable(map[string]string{"readIOPS": readIOPS}, quantity.Parse)
	fixture.Must(n.t, err)
	v, err := n.pool.Modify(n.t.Context(), n.id, changes)
	fixture.Must(n.t, err)
	fixture.Must(n.t, Volume{v}.Limit(n.limiter))
}

func TestIOLimitsComeAgainWhenNobodyNeedsThemLifted(t *testing.T) {
	n := newLimitedNode(t)
	n.modify("17")
	n.wantReadIOPS("17", "before")
	first := Unlimit(t.Context(), n.limiter, n, n.id)
	second := Unlimit(t.Context(), n.limiter, n, n.id)
	n.wantReadIOPS("0", "two have lifted them")
	first()
	first()
	n.wantReadIOPS("0", "one of two is done")
	n.modify("18")
	n.wantReadIOPS("0", "the limits are changed meanwhile")
	second()
	n.wantReadIOPS("18", "both are done")
}

func TestIOLimitsThatAreChangedMeanwhileStay(t *testing.T) {
	n := newLimitedNode(t)
	n.modify("17")
	asked := 0
	err := limitAsRecorded(n.limiter, func() (Volume, error) {
		v := find(t, n.pool, n.id)
		if asked++; asked == 1 {
			n.modify("18") // after the record was read, and before its limits are set
		}
		return v, nil
	})
	fixture.Must(t, err)
	n.wantReadIOPS("18", "the limits were changed")
}
