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
)

// portrait is everything that can be seen of a tree, an entry a line, by path. Two trees with the
// same portrait are the same to a pod.
type portrait map[string]string

// portray looks at a tree that nobody changes, by descriptor, since a path can be longer than the
// kernel takes.
func portray(t testing.TB, dir string) portrait {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	must(t, err)
	p := painter{t: t, portrait: portrait{}, first: map[uint64]string{}}
	p.entry(fd, ".", ".")
	must(t, unix.Close(fd))
	return p.portrait
}

// portrayFile is portray for one file.
func portrayFile(t testing.TB, path string) portrait {
	t.Helper()
	p := painter{t: t, portrait: portrait{}, first: map[uint64]string{}}
	p.entry(unix.AT_FDCWD, path, ".")
	return p.portrait
}

type painter struct {
	t        testing.TB
	portrait portrait
	// first is the first path of an inode: the others are links to it.
	first map[uint64]string
}

func (p painter) entry(at int, name, path string) {
	p.t.Helper()
	var st unix.Stat_t
	must(p.t, unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW))
	kind := st.Mode & unix.S_IFMT
	line := fmt.Sprintf("mode=%o owner=%d:%d mtime=%d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec,
		st.Mtim.Nsec)
	// reading a link is an access to it, and nothing prevents that it is noted
	if kind != unix.S_IFLNK {
		line += fmt.Sprintf(" atime=%d.%09d", st.Atim.Sec, st.Atim.Nsec)
	}
	if kind != unix.S_IFDIR {
		line += fmt.Sprintf(" links=%d", st.Nlink)
		if first, ok := p.first[st.Ino]; ok {
			line += fmt.Sprintf(" same as %q", first)
		} else {
			p.first[st.Ino] = path
		}
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	must(p.t, err)
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	line += p.extended(self)
	switch kind {
	case unix.S_IFREG:
		line += fmt.Sprintf(" size=%d", st.Size) + p.content(self, st.Size)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(at, name, target)
		must(p.t, err)
		line += fmt.Sprintf(" to=%.64q length=%d", target[:n], n)
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" device=%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	must(p.t, unix.Close(fd))
	p.portrait[path] = line
	if kind == unix.S_IFDIR {
		p.children(at, name, path)
	}
}

func (p painter) children(at int, name, path string) {
	p.t.Helper()
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	must(p.t, err)
	defer unix.Close(fd)
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	must(p.t, err)
	dir := os.NewFile(uintptr(again), path)
	names, err := dir.Readdirnames(-1)
	must(p.t, err)
	dir.Close()
	slices.Sort(names) // so that the first name of a hard link is the same in both
	for _, name := range names {
		p.entry(fd, name, path+"/"+name)
	}
}

func (p painter) extended(self string) string {
	p.t.Helper()
	names := make([]byte, 1<<16)
	n, err := unix.Listxattr(self, names)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return ""
	}
	must(p.t, err)
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
		must(p.t, err)
		values[name] = string(value[:n])
	}
	var line strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&line, " %s=%.64q", name, values[name])
	}
	return line.String()
}

// content is a hash of the data, hole by hole, so that a terabyte of nothing takes no time.
func (p painter) content(self string, size int64) string {
	p.t.Helper()
	f, err := os.OpenFile(self, os.O_RDONLY|unix.O_NOATIME, 0)
	must(p.t, err)
	defer f.Close()
	hash := sha256.New()
	for offset := int64(0); offset < size; {
		data, err := f.Seek(offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		must(p.t, err)
		offset, err = f.Seek(data, unix.SEEK_HOLE)
		must(p.t, err)
		fmt.Fprintf(hash, "%d", data)
		_, err = io.Copy(hash, io.NewSectionReader(f, data, offset-data))
		must(p.t, err)
	}
	return fmt.Sprintf(" content=%.8x", hash.Sum(nil))
}

// wantSame compares two portraits, but for the lines that begin with one of the paths left out.
func wantSame(t testing.TB, got, want portrait, leftOut ...string) {
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
