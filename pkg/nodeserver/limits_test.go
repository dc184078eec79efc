package nodeserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// limit is what the tests limit writers to, in bytes per second, and written what they write.
const (
	limit   = 2 * mib
	written = 8 * mib
)

// pods are the control groups of a node with one pod, of the test's own.
type pods struct {
	t       *testing.T
	options iolimit.Options
	// root is the hierarchy's root, group that of all pods, and container the one of a container.
	root, group, container string
	isV2                   bool
}

func newPods(t *testing.T) *pods {
	t.Helper()
	p := &pods{t: t, options: iolimit.Options{Cgroups: "/sys/fs/cgroup"}}
	var st unix.Statfs_t
	fixture.Must(t, unix.Statfs(p.options.Cgroups, &st))
	p.isV2 = st.Type == unix.CGROUP2_SUPER_MAGIC
	p.root = p.options.Cgroups
	if !p.isV2 {
		p.root = filepath.Join(p.root, "blkio")
	}
	p.options.PodsGroup = fmt.Sprintf("csi-hostpath-test-%d/kubepods", os.Getpid())
	p.group = filepath.Join(p.root, p.options.PodsGroup)
	p.container = filepath.Join(p.group, "pod1/container")
	p.add("pod1/container")
	return p
}

// add makes a group below the one of the pods, with the controller io in each group above.
func (p *pods) add(name string) {
	p.t.Helper()
	at := p.root
	for part := range strings.SplitSeq(p.options.PodsGroup+"/"+name, "/") {
		if p.isV2 {
			fixture.Must(p.t, os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+io"), 0))
		}
		at = filepath.Join(at, part)
		made := at
		if err := os.Mkdir(made, 0o755); err == nil {
			p.t.Cleanup(func() { fixture.Must(p.t, os.Remove(made)) })
		} else if !errors.Is(err, os.ErrExist) {
			p.t.Fatal(err)
		}
	}
}

// settings are what the control groups say of a device.
func (p *pods) settings(device string) string {
	p.t.Helper()
	var st unix.Stat_t
	fixture.Must(p.t, unix.Stat(device, &st))
	number := fmt.Sprintf("%d:%d ", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	files, err := filepath.Glob(filepath.Join(p.group, "io.max"))
	fixture.Must(p.t, err)
	if !p.isV2 {
		files, err = filepath.Glob(filepath.Join(p.container, "blkio.throttle.*_device"))
		fixture.Must(p.t, err)
	}
	var found []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		fixture.Must(p.t, err)
		for line := range strings.Lines(string(content)) {
			if settings, ok := strings.CutPrefix(line, number); ok {
				found = append(found, strings.TrimSpace(settings))
			}
		}
	}
	return strings.Join(found, "; ")
}

// write writes to a file past the page cache, as a process of the container, and returns how many
// bytes it has written in a second.
func (p *pods) write(path string) float64 {
	p.t.Helper()
	script := `echo $$ > "$1"/cgroup.procs && exec dd if=/dev/zero of="$2" bs=1M count="$3" ` +
		`oflag=direct conv=notrunc status=none`
	start := time.Now()
	out, err := exec.CommandContext(p.t.Context(), "sh", "-c", script, "sh", p.container, path,
		strconv.Itoa(written/mib)).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	return written / time.Since(start).Seconds()
}

// newLimitedNode is a node with an image, and a neighbour in the same pool.
func newLimitedNode(t *testing.T, spec volume.Spec) (_ *imageNode, p *pods) {
	t.Helper()
	n := newImageNode(t, spec)
	p = newPods(t)
	n.Limiter = iolimit.New(p.options)
	return n, p
}

// modify does what ControllerModifyVolume does.
func (n *imageNode) modify(params map[string]string) {
	n.t.Helper()
	changes, err := volume.ParseMutable(params, quantity.Parse)
	fixture.Must(n.t, err)
	v, err := n.pool.Modify(n.t.Context(), n.id, changes)
	fixture.Must(n.t, err)
	fixture.Must(n.t, staging.Volume{Volume: v}.Limit(n.Limiter))
}

// A machine that is busy with other tests may write slower than the limit, never faster.
func TestIOLimitHoldsWhilePodsWriteAndTheNeighbourIsNotSlowed(t *testing.T) {
	n, p := newLimitedNode(t, imageSpec(volume.Ext4))
	neighbour := *n
	neighbour.stagingName = "neighbour-staging"
	neighbour.id = n.createImage("neighbour", imageSpec(volume.Ext4))
	fixture.Must(t, os.Mkdir(neighbour.stagingPath(), 0o750))
	neighbour.stageAndPublish("neighbour")
	defer neighbour.takeDown("neighbour")
	n.stageAndPublish("pod")
	defer n.takeDown("pod")
	file, other := filepath.Join(n.target("pod"), "file"), filepath.Join(n.target("neighbour"), "file")

	n.modify(map[string]string{"writeBytesPerSecond": strconv.Itoa(limit)})
	p.wantRate(file, "the limit", func(rate float64) bool {
		if rate > 1.05*limit {
			t.Fatalf("%.0f bytes per second, want at most %d", rate, limit)
		}
		return rate > 0.95*limit
	})
	isFast := func(rate float64) bool { return rate > 2*limit }
	p.wantRate(other, "the neighbour", isFast)
	n.modify(map[string]string{"writeBytesPerSecond": volume.MutableDefault})
	p.wantRate(file, "without a limit", isFast)
}

// wantRate writes to a file until it is as fast as it should be.
func (p *pods) wantRate(path, what string, isRight func(rate float64) bool) {
	p.t.Helper()
	var rate float64
	fixture.Eventually(p.t, what, func() bool {
		rate = p.write(path)
		return isRight(rate)
	}, func() any { return rate })
	p.t.Logf("%s: %.0f bytes per second", what, rate)
}

func (n *imageNode) wantLimited(p *pods, when string) {
	n.t.Helper()
	n.eachSettings(p, func(device, settings string) {
		if settings == "" {
			n.t.Errorf("%s: %s has no limits", when, device)
		}
	})
}

func (n *imageNode) wantUnlimited(p *pods, when string) {
	n.t.Helper()
	n.eachSettings(p, func(device, settings string) {
		if settings != "" {
			n.t.Errorf("%s: %s has the settings %q", when, device, settings)
		}
	})
}

// eachSettings calls check for each of the volume's devices.
func (n *imageNode) eachSettings(p *pods, check func(device, settings string)) {
	n.t.Helper()
	devices := n.devices(n.id)
	if len(devices) == 0 {
		n.t.Fatal("the volume has no device")
	}
	for _, device := range devices {
		check(device, p.settings(device))
	}
}

func TestIOLimitsComeWithTheDeviceAndGoBeforeIt(t *testing.T) {
	t.Run("image", func(t *testing.T) {
		n, p := newLimitedNode(t, imageSpec(volume.XFS))
		n.useLimited(p, func() { n.stageAndPublish("a", "b") })
	})
	t.Run("block", func(t *testing.T) {
		n, p := newLimitedNode(t, blockSpec())
		n.useLimited(p, func() {
			fixture.Must(t, n.stageBlock())
			fixture.Must(t, n.publishBlock("a"))
			fixture.Must(t, n.publishBlock("b"))
		})
	})
}

// useLimited publishes a volume for two pods, restarts the driver, and takes the volume down.
func (n *imageNode) useLimited(p *pods, publish func()) {
	t := n.t
	t.Helper()
	n.modify(map[string]string{"readIOPS": "100", "writeBytesPerSecond": "1Mi"})
	publish()
	n.wantLimited(p, "when it is published")
	devices := n.devices(n.id)

	n.Limiter = iolimit.New(p.options) // the driver starts again
	fixture.Must(t, staging.RecallLimits(n.Limiter))
	fixture.Must(t, staging.Reconcile(t.Context(), n.pool, n.Limiter, n.Publications.Targets))
	n.wantLimited(p, "after a restart")

	fixture.Must(t, n.unpublish(t, n.id, "a"))
	n.wantLimited(p, "when one of two pods has gone")
	fixture.Must(t, n.unpublish(t, n.id, "b"))
	fixture.Must(t, n.unstage())
	n.wantDetached(n.id)
	for _, device := range devices {
		if settings := p.settings(device); settings != "" {
			t.Errorf("%s has still the settings %q", device, settings)
		}
	}
}

func TestIOLimitsThatACrashLeftAreLiftedOrTakenOver(t *testing.T) {
	n, p := newLimitedNode(t, imageSpec(volume.Ext4))
	n.modify(map[string]string{"readIOPS": "100"})
	n.stageAndPublish()
	devices := n.devices(n.id)
	left := n.Limiter

	// The record is written, and the driver dies before it lifts the limit.
	n.Limiter = nil
	n.modify(map[string]string{"readIOPS": volume.MutableDefault})
	n.wantLimited(p, "after the crash")
	n.Limiter = iolimit.New(p.options)
	fixture.Must(t, staging.RecallLimits(n.Limiter))
	fixture.Must(t, staging.Reconcile(t.Context(), n.pool, n.Limiter, n.Publications.Targets))
	n.wantUnlimited(p, "after the start")

	// The volume is unstaged while no driver that limits runs.
	n.modify(map[string]string{"readIOPS": "100"})
	n.Limiter = nil
	fixture.Must(t, n.unstage())
	n.wantDetached(n.id)
	n.Limiter = iolimit.New(p.options)
	fixture.Must(t, staging.RecallLimits(n.Limiter))
	for _, device := range devices {
		if settings := p.settings(device); settings != "" {
			t.Errorf("%s is nobody's, and has the settings %q", device, settings)
		}
	}
	fixture.Must(t, left.Refresh()) // what the dead driver would do is no fault
	fixture.Must(t, n.Limiter.Refresh())
}

func TestNewContainersAreLimitedToo(t *testing.T) {
	n, p := newLimitedNode(t, imageSpec(volume.Ext4))
	n.modify(map[string]string{"readIOPS": "100"})
	n.stageAndPublish("pod")
	defer n.takeDown("pod")
	p.add("pod2/container")
	p.container = filepath.Join(p.group, "pod2/container")
	n.RefreshLimits(t.Context())
	n.wantLimited(p, "in a new container")
}

func TestVolumeWhoseIOLimitsCannotHoldIsNotUsed(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	changes, err := volume.ParseMutable(map[string]string{"readIOPS": "100"}, quantity.Parse)
	fixture.Must(t, err)
	_, err = n.pool.Modify(t.Context(), n.id, changes)
	fixture.Must(t, err)
	if err := n.stage(); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("%v, want ErrPrecondition: the operator has not switched limits on", err)
	}
	n.wantDetached(n.id)
}
