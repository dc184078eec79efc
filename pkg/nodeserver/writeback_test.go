package nodeserver

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// gatedGroups are control groups of plain files, in whose root group first and last are the files
// that the driver writes first and last for a device.
type gatedGroups struct {
	t                 *testing.T
	root, first, last string
}

func newGatedGroups(t *testing.T) *gatedGroups {
	t.Helper()
	g := &gatedGroups{t: t, root: t.TempDir()}
	fixture.Must(t, os.MkdirAll(filepath.Join(g.root, "blkio/kubepods"), 0o750))
	for _, group := range []string{"blkio", "blkio/kubepods"} {
		for _, name := range []string{"read_bps", "write_bps", "read_iops", "write_iops"} {
			file := filepath.Join(g.root, group, "blkio.throttle."+name+"_device")
			fixture.Must(t, os.WriteFile(file, nil, 0o600))
		}
	}
	g.first = filepath.Join(g.root, "blkio/blkio.throttle.read_bps_device")
	g.last = filepath.Join(g.root, "blkio/blkio.throttle.write_iops_device")
	return g
}

// during calls check while do waits in its first change of limits, and returns when do is done.
func (g *gatedGroups) during(do func() error, check func()) {
	g.t.Helper()
	for _, file := range []string{g.first, g.last} {
		fixture.Must(g.t, os.Remove(file))
		fixture.Must(g.t, unix.Mkfifo(file, 0o600)) // open(2) waits for the other side: fifo(7)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := os.OpenFile(g.first, os.O_RDONLY, 0)
		opened <- err
	}()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		g.t.Fatalf("no limits were changed: %v", err)
	case err := <-opened:
		fixture.Must(g.t, err)
	}
	check()
	for _, file := range []string{g.first, g.last} { // from now on nobody waits
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		fixture.Must(g.t, err)
		g.t.Cleanup(func() { f.Close() })
	}
	fixture.Must(g.t, <-done)
}

// The kernel writes what is left in the page cache when a device is detached. Under limits that may
// take hours.
func TestIOLimitsAreLiftedBeforeOneOfTwoDevicesIsDetached(t *testing.T) {
	for _, tc := range []struct {
		title string
		do    func(n *imageNode, g *gatedGroups) func() error
	}{
		{"unpublished", func(n *imageNode, _ *gatedGroups) func() error {
			return func() error { return n.unpublish(n.t, n.id, "writer") }
		}},
		{"not shown any more when the driver starts", func(n *imageNode, g *gatedGroups) func() error {
			n.Limiter = iolimit.New(iolimit.Options{Cgroups: g.root})
			fixture.Must(n.t, staging.RecallLimits(n.Limiter))
			reader := func(id string) []mount.Target {
				return slices.DeleteFunc(n.Publications.Targets(id), func(target mount.Target) bool {
					return target.String() == n.target("writer")
				})
			}
			return func() error {
				return staging.Reconcile(n.t.Context(), n.pool, n.Limiter, reader)
			}
		}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			n, g := newBlockNode(t), newGatedGroups(t)
			n.Limiter = iolimit.New(iolimit.Options{Cgroups: g.root})
			n.modify(map[string]string{"writeBytesPerSecond": "1Mi"})
			fixture.Must(t, n.stageBlock())
			fixture.Must(t, n.publishBlock("writer"))
			fixture.Must(t, n.publishBlockReadOnly("reader"))
			g.during(tc.do(n, g), func() {
				if got := n.devices(n.id); len(got) != 2 {
					t.Errorf("the limits are changed when only %q is left", got)
				}
			})
			n.wantOneDevice()
		})
	}
}
