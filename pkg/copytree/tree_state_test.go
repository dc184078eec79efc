package copytree

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// treeState has all that a pod can see of a tree: a line for each entry, by path. To a pod, two
// trees with the same state are the same.
type treeState map[string]string

// stateOf reads a tree that nobody changes. It works by descriptor, because a path can be longer
// than the kernel takes.
func stateOf(t testing.TB, dir string) treeState {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	must(t, err)
	r := stateReader{t: t, state: treeState{}, first: map[uint64]string{}}
	r.entry(fd, ".", ".")
	must(t, unix.Close(fd))
	return r.state
}

// stateOfFile is stateOf for one file.
func stateOfFile(t testing.TB, path string) treeState {
	t.Helper()
	r := stateReader{t: t, state: treeState{}, first: map[uint64]string{}}
	r.entry(unix.AT_FDCWD, path, ".")
	return r.state
}

type stateReader struct {
	t     testing.TB
	state treeState
	// first is the first path of an inode; the others are links to it.
	first map[uint64]string
}

func (r stateReader) entry(at int, name, path string) {
	r.t.Helper()
	var st unix.Stat_t
	must(r.t, unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW))
	kind := st.Mode & unix.S_IFMT
	line := fmt.Sprintf("mode=%o owner=%d:%d mtime=%d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec,
		st.Mtim.Nsec)
	// To read a link changes its access time, and nothing can prevent that.
	if kind != unix.S_IFLNK {
		line += fmt.Sprintf(" atime=%d.%09d", st.Atim.Sec, st.Atim.Nsec)
	}
	if kind != unix.S_IFDIR {
		line += fmt.Sprintf(" links=%d", st.Nlink)
		if first, ok := r.first[st.Ino]; ok {
			line += fmt.Sprintf(" same as %q", first)
		} else {
			r.first[st.Ino] = path
		}
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	must(r.t, err)
	self := openat.PathOfFD(fd)
	line += r.extended(self)
	switch kind {
	case unix.S_IFREG:
		line += fmt.Sprintf(" size=%d", st.Size) + r.content(self, st.Size)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(at, name, target)
		must(r.t, err)
		line += fmt.Sprintf(" to=%.64q length=%d", target[:n], n)
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" device=%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	must(r.t, unix.Close(fd))
	r.state[path] = line
	if kind == unix.S_IFDIR {
		r.children(at, name, path)
	}
}

func (r stateReader) children(at int, name, path string) {
	r.t.Helper()
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	must(r.t, err)
	defer unix.Close(fd)
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	must(r.t, err)
	dir := os.NewFile(uintptr(again), path)
	names, err := dir.Readdirnames(-1)
	must(r.t, err)
	dir.Close()
	slices.Sort(names) // so that the first name of a hard link is the same in both
	for _, name := range names {
		r.entry(fd, name, path+"/"+name)
	}
}

func (r stateReader) extended(self string) string {
	r.t.Helper()
	names := make([]byte, 1<<16)
	n, err := unix.Listxattr(self, names)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return ""
	}
	must(r.t, err)
	values := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.SGI_ACL_") { // XFS's own name for an ACL
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Getxattr(self, name, value)
		if errors.Is(err, unix.EINVAL) { // a capability of zero bytes
			continue
		}
		must(r.t, err)
		values[name] = string(value[:n])
	}
	var line strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&line, " %s=%.64q", name, values[name])
	}
	return line.String()
}

// content hashes the data without the holes, so that a terabyte of holes takes no time.
func (r stateReader) content(self string, size int64) string {
	r.t.Helper()
	f, err := os.OpenFile(self, os.O_RDONLY|unix.O_NOATIME, 0)
	must(r.t, err)
	defer f.Close()
	hash := sha256.New()
	for offset := int64(0); offset < size; {
		data, end, err := openat.NextData(int(f.Fd()), offset, size)
		must(r.t, err)
		if data < end {
			fmt.Fprintf(hash, "%d", data)
		}
		_, err = io.Copy(hash, io.NewSectionReader(f, data, end-data))
		must(r.t, err)
		offset = end
	}
	return fmt.Sprintf(" content=%.8x", hash.Sum(nil))
}

// wantSame compares two tree states, except for the paths that are left out.
func wantSame(t testing.TB, got, want treeState, leftOut ...string) {
	t.Helper()
	paths := maps.Clone(want)
	maps.Copy(paths, got)
	faults := 0
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		w := want[path]
		if slices.Contains(leftOut, path) {
			w = ""
		}
		if got[path] != w && faults < 20 {
			faults++
			t.Errorf("%.200q:\n copy   %s\n source %s", path, got[path], w)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
