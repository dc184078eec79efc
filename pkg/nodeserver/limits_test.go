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

// transfer is reading or writing past the page cache, and what limits it.
type transfer struct {
	parameter string
	// limit is in units of the parameter: bytes, or blocks, per second.
	limit int
	// blockSize is in bytes, and count is how many blocks are transferred.
	blockSize, count int
	// perBlock is how many units a block is.
	perBlock int
	isRead   bool
}

// transfers take four seconds each: the kernel grants a tenth of a second at a time.
func transfers() []transfer {
	const iops, bps = 400, 2 * mib
	return []transfer{
		{parameter: "writeBytesPerSecond", limit: bps, blockSize: mib, count: 8, perBlock: mib},
		{parameter: "readBytesPerSecond", limit: bps, blockSize: mib, count: 8, perBlock: mib, isRead: true},
		{parameter: "writeIOPS", limit: iops, blockSize: 4096, count: 4 * iops, perBlock: 1},
		{parameter: "readIOPS", limit: iops, blockSize: 4096, count: 4 * iops, perBlock: 1, isRead: true},
	}
}

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

// transfer reads or writes a file as a process of the container. It returns how many units of the
// parameter were transferred in a second.
func (p *pods) transfer(path string, tr transfer) float64 {
	p.t.Helper()
	args := []string{"if=/dev/zero", "of=" + path, "oflag=direct", "conv=notrunc"}
	if tr.isRead {
		args = []string{"if=" + path, "of=/dev/null", "iflag=direct"}
	}
	args = append(args, "status=none", fmt.Sprint("bs=", tr.blockSize), fmt.Sprint("count=", tr.count))
	script := `echo $$ > "$0"/cgroup.procs && exec dd "$@"`
	start := time.Now()
	out, err := exec.CommandContext(p.t.Context(), "sh",
		append([]string{"-c", script, p.container}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	return float64(tr.count*tr.perBlock) / time.Since(start).Seconds()
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

// A machine that is busy with other tests may be slower than the limit, never faster. The volumes
// are each other's neighbours too.
func TestIOLimitHoldsWhilePodsWriteAndTheNeighbourIsNotSlowed(t *testing.T) {
	n, p := newLimitedNode(t, imageSpec(volume.Ext4))
	n.stageAndPublish("neighbour")
	defer n.takeDown("neighbour")
	neighbour := n.newFile("neighbour", 8*mib)
	t.Run("parallel", func(t *testing.T) {
		for _, tr := range transfers() {
			limited := n.another(t, tr.parameter)
			limited.stageAndPublish(tr.parameter)
			t.Cleanup(func() { limited.takeDown(tr.parameter) })
			file := limited.newFile(tr.parameter, 8*mib)
			t.Run(tr.parameter, func(t *testing.T) {
				t.Parallel()
				limited.of(t).wantLimitHeld(p.of(t), tr, file, neighbour)
			})
		}
	})
}

// wantLimitHeld limits a volume, shows that the limit holds for its file and not for that of a
// neighbour, and lifts it again.
func (n *imageNode) wantLimitHeld(p *pods, tr transfer, file, neighbour string) {
	n.t.Helper()
	n.modify(map[string]string{tr.parameter: strconv.Itoa(tr.limit)})
	limit := float64(tr.limit)
	p.wantRate(file, tr, "limited", func(rate float64) bool {
		if rate > 1.05*limit {
			n.t.Fatalf("%.0f in a second, want at most %d", rate, tr.limit)
		}
		return rate > 0.95*limit
	})
	isFast := func(rate float64) bool { return rate > 2*limit }
	p.wantRate(neighbour, tr, "the neighbour", isFast)
	n.modify(map[string]string{tr.parameter: volume.MutableDefault})
	p.wantRate(file, tr, "without a limit", isFast)
}

// another is the same node with another image.
func (n *imageNode) another(t *testing.T, name string) *imageNode {
	t.Helper()
	another := n.of(t)
	another.stagingName = name + "-staging"
	another.id = n.createImage(name, imageSpec(volume.Ext4))
	fixture.Must(t, os.Mkdir(another.stagingPath(), 0o750))
	return another
}

// of is the node in a subtest.
func (n *imageNode) of(t *testing.T) *imageNode {
	t.Helper()
	same := *n
	same.t = t
	return &same
}

// of is the groups in a subtest.
func (p *pods) of(t *testing.T) *pods {
	t.Helper()
	same := *p
	same.t = t
	return &same
}

// newFile makes a file in a volume that is published for a pod.
func (n *imageNode) newFile(pod string, size int) string {
	n.t.Helper()
	file := filepath.Join(n.target(pod), "file")
	fixture.Must(n.t, os.WriteFile(file, make([]byte, size), 0o600))
	return file
}

// wantRate transfers until it is as fast as it should be.
func (p *pods) wantRate(path string, tr transfer, what string, isRight func(rate float64) bool) {
	p.t.Helper()
	var rate float64
	fixture.Eventually(p.t, tr.parameter+", "+what, func() bool {
		rate = p.transfer(path, tr)
		return isRight(rate)
	}, func() any { return rate })
	p.t.Logf("%s, %s: %.0f in a second", tr.parameter, what, rate)
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
