package iolimit

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestLimitsAreRefusedWhereTheyCannotHold(t *testing.T) {
	empty := t.TempDir()
	limits := volume.IOLimits{ReadIOPS: 10}
	for _, tc := range []struct {
		title   string
		limiter *Limiter
		want    string
	}{
		{"nil", nil, "config.ioLimits"},
		{"off", New(Options{}), "config.ioLimits"},
		{"without cgroups", New(Options{Cgroups: filepath.Join(empty, "none")}), "mount the node's"},
		{"in a directory", New(Options{Cgroups: empty}), "neither cgroup v2"},
	} {
		for _, err := range []error{tc.limiter.Check(limits), tc.limiter.Set("v", limits)} {
			if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want ErrPrecondition and %q", tc.title, err, tc.want)
			}
		}
		if err := tc.limiter.Check(volume.IOLimits{}); err != nil {
			t.Errorf("%s: no limits: %v", tc.title, err)
		}
	}
}

func TestGroupOfThePodsIsFound(t *testing.T) {
	root := t.TempDir()
	if _, err := findPods(root, ""); err == nil || !strings.Contains(err.Error(), "ioLimits.podsGroup") {
		t.Errorf("%v, want the key that helps", err)
	}
	for _, tc := range []struct{ made, name string }{
		{"kubepods", ""}, {"kubepods.slice", ""}, {"a/kubepods", "a/kubepods"},
	} {
		want := filepath.Join(root, tc.made)
		if err := os.MkdirAll(want, 0o755); err != nil {
			t.Fatal(err)
		}
		if got, err := findPods(root, tc.name); got != want || err != nil {
			t.Errorf("%q: %s, %v, want %s", tc.name, got, err, want)
		}
	}
}

// The kernel's files are replaced by plain ones, which keep the last line that was written.
func TestV2LineIsAsTheKernelPrintsIt(t *testing.T) {
	h := v2{filepath.Join(t.TempDir(), "io.max")}
	content := "7:3 rbps=max wbps=1048576 riops=max wiops=20\n8:0 rbps=1 wbps=max riops=max wiops=max\n"
	if err := os.WriteFile(h.file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := h.limited()
	if want := []Device{LoopDevice(3)}; !slices.Equal(found, want) || err != nil {
		t.Errorf("%v, %v, want %v", found, err, want)
	}
	there := limited{limits: volume.IOLimits{WriteBytesPerSecond: 1 << 20, WriteIOPS: 20}}
	if _, err := h.refresh(map[Device]limited{LoopDevice(3): there}); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(h.file); string(got) != content || err != nil {
		t.Errorf("what is there was written again: %q, %v", got, err)
	}
	if _, err := h.refresh(map[Device]limited{LoopDevice(4): there}); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(h.file)
	if want := "7:4 rbps=max wbps=1048576 riops=max wiops=20"; !strings.HasPrefix(string(got), want) ||
		err != nil {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

func TestV1LimitsEachGroupBelowThePods(t *testing.T) {
	root := t.TempDir()
	pods := filepath.Join(root, "kubepods")
	makeV1Group(t, root, "kubepods/pod1/c1")
	h := v1{root: root, pods: pods}
	limits := volume.IOLimits{ReadBytesPerSecond: 1 << 20, WriteIOPS: 20}
	if err := h.set(LoopDevice(3), limits); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		v1Files[0]: "7:3 1048576", v1Files[1]: "7:3 0", v1Files[2]: "7:3 0", v1Files[3]: "7:3 20",
	}
	pod := filepath.Join(pods, "pod1")
	for _, group := range []string{root, pods, pod, filepath.Join(pod, "c1")} {
		if got := readV1(t, group); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", group, got, want)
		}
	}
	makeV1Group(t, root, "kubepods/pod2")
	if _, err := h.refresh(map[Device]limited{LoopDevice(3): {limits: limits}}); err != nil {
		t.Fatal(err)
	}
	if got := readV1(t, filepath.Join(pods, "pod2")); !maps.Equal(got, want) {
		t.Errorf("a new group: %v, want %v", got, want)
	}
}

// fakeNode is a Limiter on a tree of plain files, and the groups of it that have limits.
func fakeNode(t *testing.T) (l *Limiter, groups []string) {
	t.Helper()
	root := t.TempDir()
	makeV1Group(t, root, "blkio/kubepods/pod1")
	for _, group := range []string{"blkio", "blkio/kubepods", "blkio/kubepods/pod1"} {
		groups = append(groups, filepath.Join(root, group))
	}
	return New(Options{Cgroups: root}), groups
}

// wantReadIOPS checks what was written last to each group.
func wantReadIOPS(t *testing.T, groups []string, want, when string) {
	t.Helper()
	for _, group := range groups {
		if got := readV1(t, group)[v1Files[2]]; got != want {
			t.Errorf("%s: %s has %q, want %q", when, group, got, want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestVolumeWithoutLimitsLiftsThoseThatItsDeviceHad(t *testing.T) {
	l, groups := fakeNode(t)
	if l.HasAny() || (*Limiter)(nil).HasAny() {
		t.Error("devices have limits, and none was set")
	}
	limits := volume.IOLimits{ReadIOPS: 7}
	for _, before := range []struct {
		title string
		limit func() error
	}{
		{"of a volume", func() error { return l.Set("old", limits, LoopDevice(3)) }},
		{"of an earlier process", func() error { return l.Recall(func(Device) bool { return false }) }},
	} {
		for _, group := range groups {
			must(t, write(filepath.Join(group, v1Files[2]), "7:3 7"))
		}
		must(t, before.limit())
		if !l.HasAny() {
			t.Fatalf("%s: no device has limits", before.title)
		}
		must(t, l.Set("new", volume.IOLimits{}, LoopDevice(3)))
		wantReadIOPS(t, groups, "7:3 0", before.title)
		if l.HasAny() {
			t.Errorf("%s: the device has still limits", before.title)
		}
	}
}

func TestLastOfSeveralLiftsSetsLimitsAgain(t *testing.T) {
	l, groups := fakeNode(t)
	limits := volume.IOLimits{ReadIOPS: 7}
	must(t, l.Lift("v"))
	if l.Unlift("v") {
		t.Error("a volume without limits gets some")
	}
	must(t, l.Set("v", limits, LoopDevice(3)))
	must(t, l.Lift("v"))
	must(t, l.Lift("v"))
	wantReadIOPS(t, groups, "7:3 0", "lifted")
	if l.Unlift("v") {
		t.Error("the limits come while another needs them lifted")
	}
	must(t, l.Set("v", limits, LoopDevice(3)))
	wantReadIOPS(t, groups, "7:3 0", "set while they are lifted")
	if !l.Unlift("v") {
		t.Error("the limits do not come again")
	}
	must(t, l.Set("v", limits, LoopDevice(3)))
	wantReadIOPS(t, groups, "7:3 7", "set again")
}

// failWrites puts a directory in the place of a group's file, which fails each write to it.
func failWrites(t *testing.T, file string) (repair func()) {
	t.Helper()
	must(t, os.RemoveAll(file))
	must(t, os.Mkdir(file, 0o700))
	return func() {
		must(t, os.Remove(file))
		must(t, os.WriteFile(file, nil, 0o600))
	}
}

func TestV1LimitThatFailedInOneGroupIsTriedAgain(t *testing.T) {
	l, groups := fakeNode(t)
	file := filepath.Join(groups[2], v1Files[2])
	// The first limit, which Refresh looks for, is set in each group.
	limits := volume.IOLimits{ReadBytesPerSecond: 1, ReadIOPS: 7}
	repair := failWrites(t, file)
	for _, err := range []error{l.Set("v", limits, LoopDevice(2)), l.Refresh(), l.Refresh()} {
		if err == nil {
			t.Error("a limit that was not set is no error")
		}
	}
	repair()
	must(t, l.Refresh())
	wantReadIOPS(t, groups, "7:2 7", "after a failure")

	must(t, os.Truncate(file, 0))
	must(t, l.Refresh())
	wantReadIOPS(t, groups[2:], "", "what has not failed is not written again")
}

func TestV1LiftThatFailedInOneGroupIsTriedAgain(t *testing.T) {
	l, groups := fakeNode(t)
	file := filepath.Join(groups[2], v1Files[2])
	must(t, l.Set("v", volume.IOLimits{ReadIOPS: 7}, LoopDevice(2)))
	repair := failWrites(t, file)
	for _, err := range []error{l.Lift("v"), l.Refresh()} {
		if err == nil || !strings.Contains(err.Error(), "device 7:2") {
			t.Errorf("%v, want an error that names the device whose limits are not lifted", err)
		}
	}
	repair()
	wantReadIOPS(t, groups[:2], "7:2 0", "while one group fails")
	must(t, l.Refresh())
	wantReadIOPS(t, groups, "7:2 0", "after a failure")
	if l.HasAny() {
		t.Error("the device has still limits")
	}
}

// Kubelet makes the group of the pods again after its cgroup driver was changed.
func TestLimitIsSetOnceThePodsHaveAGroup(t *testing.T) {
	root := t.TempDir()
	makeV1Group(t, root, "blkio")
	l := New(Options{Cgroups: root})
	limits := volume.IOLimits{ReadIOPS: 7}
	for _, err := range []error{l.Set("v", limits, LoopDevice(2)), l.Refresh()} {
		if !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("without a group of the pods: %v, want ErrPrecondition", err)
		}
	}
	makeV1Group(t, root, "blkio/kubepods/pod1")
	must(t, l.Refresh())
	wantReadIOPS(t, []string{filepath.Join(root, "blkio/kubepods/pod1")}, "7:2 7", "with a group")
}

// makeV1Group makes a group and those above it, with files of their own.
func makeV1Group(t *testing.T, root, group string) {
	t.Helper()
	for path := root; ; path = filepath.Join(path, strings.Split(group, "/")[0]) {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range v1Files {
			f, err := os.OpenFile(filepath.Join(path, name), os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		if path != root {
			_, group, _ = strings.Cut(group, "/")
		}
		if group == "" {
			return
		}
	}
}

func readV1(t *testing.T, group string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, name := range v1Files {
		content, err := os.ReadFile(filepath.Join(group, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(content)
	}
	return got
}
