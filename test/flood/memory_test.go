package flood

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const (
	// cgroupRoot is where every distribution mounts the hierarchies.
	cgroupRoot = "/sys/fs/cgroup"
	// valuesFile has the limit that the driver's container gets.
	valuesFile = "../../deploy/helm/csi-hostpath/values.yaml"
)

// memoryGroup is a control group that bounds memory as the chart bounds the driver's.
type memoryGroup struct {
	dir  string
	peak string // the file that says how much memory was in use at most
}

// newMemoryGroup makes a group for the test, and removes it afterwards. The test skips where a
// group cannot be made.
func newMemoryGroup(t *testing.T) memoryGroup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a control group")
	}
	dir, settings, peak := layout(t)
	dir = filepath.Join(dir, fmt.Sprintf("csi-hostpath-flood-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("needs a control group for memory that can be written to: %v", err)
	}
	t.Cleanup(func() { removeGroup(t, dir) })
	limit := strconv.FormatInt(chartLimit(t), 10)
	for _, name := range settings {
		err := os.WriteFile(filepath.Join(dir, name), []byte(limit), 0)
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(name, "sw") {
			continue // this kernel does not account swap
		}
		if err != nil {
			t.Skipf("needs a control group whose memory can be limited: %v", err)
		}
	}
	return memoryGroup{dir, filepath.Join(dir, peak)}
}

// layout says where groups for memory are made, which files set the limit, in that order, and which
// one has the peak: cgroup v2, or the hierarchy of memory of cgroup v1.
func layout(t *testing.T) (dir string, settings []string, peak string) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		t.Skipf("needs control groups at %s: %v", cgroupRoot, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return filepath.Join(cgroupRoot, "memory"),
			[]string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"},
			"memory.max_usage_in_bytes"
	}
	control := filepath.Join(cgroupRoot, "cgroup.subtree_control")
	if err := os.WriteFile(control, []byte("+memory"), 0); err != nil {
		t.Skipf("needs the memory controller of control groups: %v", err)
	}
	return cgroupRoot, []string{"memory.max"}, "memory.peak"
}

// removeGroup waits until the group's last process has gone.
func removeGroup(t *testing.T, dir string) {
	t.Helper()
	fixture.Eventually(t, "the group can be removed", func() bool { return unix.Rmdir(dir) == nil })
}

// chartLimit is the memory limit of the driver's container in bytes.
func chartLimit(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile(valuesFile)
	if err != nil {
		t.Fatal(err)
	}
	_, driver, _ := strings.Cut(string(text), "\ndriver:\n")
	_, limit, _ := strings.Cut(driver, "limits: {memory: ")
	limit, _, ok := strings.Cut(limit, "Mi}")
	mebibytes, err := strconv.ParseInt(limit, 10, 64)
	if !ok || err != nil {
		t.Fatalf("%s: the driver's memory limit is not in it: %v", valuesFile, err)
	}
	return mebibytes << 20
}

// peakBytes is the most memory that the group has had; 0 where the kernel does not say.
func (g memoryGroup) peakBytes() int64 {
	text, err := os.ReadFile(g.peak)
	if err != nil {
		return 0
	}
	peak, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return peak
}
