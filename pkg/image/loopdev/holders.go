package loopdev

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	// maxHolders is how many holders an error names.
	maxHolders = 5
	// holdersTime bounds the search: a node may have many processes with many files.
	holdersTime = 3 * time.Second
)

// Holders says who keeps the device attached: loop devices on it, mounts in any mount namespace,
// and processes that have it open. It is for the text of an error, and looks at every process of
// proc, the directory of a proc filesystem; in a container that may be a few. It asks no
// filesystem but that of the loop devices' files.
func (d *Device) Holders(proc string) []string {
	s := search{device: d, proc: proc, end: time.Now().Add(holdersTime), seen: map[string]bool{}}
	s.stacked()
	s.self, _ = os.Readlink(filepath.Join(proc, "self"))
	entries, err := os.ReadDir(proc)
	if err != nil {
		return s.found
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if s.isOver() {
			break
		}
		s.mountsOf(e.Name())
		s.filesOf(e.Name())
	}
	return s.found
}

// search is one for the holders of a device.
type search struct {
	device *Device
	proc   string
	self   string // the driver's own process
	end    time.Time
	seen   map[string]bool // mount namespaces
	found  []string
}

func (s *search) isOver() bool { return len(s.found) >= maxHolders || time.Now().After(s.end) }

func (s *search) addf(format string, args ...any) {
	if !s.isOver() {
		s.found = append(s.found, fmt.Sprintf(format, args...))
	}
}

func (s *search) stacked() {
	devices, err := s.device.stacked()
	if err != nil {
		return
	}
	for _, other := range devices {
		file, _ := BackingPath(other.number)
		s.addf("loop device %s, which somebody has put on it (its file is %s): losetup --detach %s",
			other.Path(), file, other.Path())
		other.Close()
	}
}

// mountsOf looks into the mount namespace of a process, if no process before has had it.
func (s *search) mountsOf(pid string) {
	namespace, err := os.Readlink(filepath.Join(s.proc, pid, "ns/mnt"))
	if err != nil || s.seen[namespace] {
		return
	}
	s.seen[namespace] = true
	table, err := os.Open(filepath.Join(s.proc, pid, "mountinfo"))
	if err != nil {
		return
	}
	defer table.Close()
	mounts, err := mountinfo.GetMountsFromReader(table, func(m *mountinfo.Info) (skip, stop bool) {
		return !s.isOnDevice(m), false
	})
	if err != nil || len(mounts) == 0 {
		return
	}
	s.addf("%s, which has its filesystem mounted at %s in the mount namespace %s",
		s.describe(pid), mounts[0].Mountpoint, namespace)
}

// isOnDevice says whether a mount is of the filesystem on the device.
func (s *search) isOnDevice(m *mountinfo.Info) bool {
	if n, ok := numberOf(unix.Mkdev(uint32(m.Major), uint32(m.Minor))); ok { //nolint:gosec // a device
		return n == s.device.number
	}
	n, ok := NumberAt(m.Source)
	return ok && n == s.device.number
}

// filesOf looks for a file of a process that is the device, or is in its filesystem. A lazily
// unmounted filesystem is in no mount table.
func (s *search) filesOf(pid string) {
	if pid == s.self {
		return
	}
	dir := filepath.Join(s.proc, pid, "fd")
	names, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		link := filepath.Join(dir, name.Name())
		what, ok := s.isHeldBy(link)
		if !ok {
			continue
		}
		file, _ := os.Readlink(link)
		s.addf("%s, which has %s open as %s", s.describe(pid), what, file)
		return
	}
}

// isHeldBy says what of the device an open file is. The kernel knows that: no filesystem is asked.
func (s *search) isHeldBy(link string) (what string, ok bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil {
		return "", false
	}
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFBLK {
		n, ok := numberOf(unix.Mkdev(st.Rdev_major, st.Rdev_minor))
		return "it", ok && n == s.device.number
	}
	n, ok := numberOf(unix.Mkdev(st.Dev_major, st.Dev_minor))
	return "a file in it", ok && n == s.device.number
}

// containerID is what container runtimes have in the names of control groups.
var containerID = regexp.MustCompile(`[0-9a-f]{64}`)

// shortID is how many digits of an ID crictl(1) and docker(1) show.
const shortID = 12

// describe names a process, and the container that it is in.
func (s *search) describe(pid string) string {
	command, _ := os.ReadFile(filepath.Join(s.proc, pid, "comm"))
	text := fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(command)))
	groups, _ := os.ReadFile(filepath.Join(s.proc, pid, "cgroup"))
	if id := containerID.Find(groups); id != nil {
		text += fmt.Sprintf(" of container %s", id[:shortID])
	}
	return text
}
