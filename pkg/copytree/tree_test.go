package copytree

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// onEach runs a test on each filesystem, with a source that is empty.
func onEach(t *testing.T, test func(t *testing.T, w world)) {
	t.Helper()
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) { test(t, newWorld(t, fstype)) })
	}
}

// world is a source and the place of its copy, on one disk.
type world struct {
	t        testing.TB
	src, dst string
	fstype   string
}

func newWorld(t testing.TB, fstype string) world {
	t.Helper()
	dir := disks.New(t, fstype, 0).Dir
	w := world{t: t, src: filepath.Join(dir, "src"), dst: filepath.Join(dir, "dst"), fstype: fstype}
	must(t, os.Mkdir(w.src, 0o755))
	must(t, os.Mkdir(w.dst, 0o700))
	return w
}

// in is a path in the source.
func (w world) in(name string) string { return filepath.Join(w.src, name) }

func (w world) mkdir(name string) {
	w.t.Helper()
	must(w.t, os.MkdirAll(w.in(name), 0o755))
}

func (w world) write(name, content string) {
	w.t.Helper()
	must(w.t, os.WriteFile(w.in(name), []byte(content), 0o644))
}

// try copies src to dst.
func (w world) try(ctx context.Context, opts Options) (Stats, error) {
	w.t.Helper()
	return tryPaths(w.t, ctx, w.src, w.dst, opts)
}

func tryPaths(t testing.TB, ctx context.Context, from, to string, opts Options) (Stats, error) { //nolint:revive // t comes first here
	t.Helper()
	src, err := os.OpenFile(from, unix.O_PATH, 0)
	must(t, err)
	defer src.Close()
	flags := os.O_RDONLY
	if info, err := os.Stat(to); err == nil && !info.IsDir() {
		flags = os.O_WRONLY
	}
	dst, err := os.OpenFile(to, flags, 0)
	must(t, err)
	defer dst.Close()
	return Tree(ctx, src, dst, opts)
}

func (w world) copy(opts Options) Stats {
	w.t.Helper()
	stats, err := w.try(w.t.Context(), opts)
	must(w.t, err)
	return stats
}

// copySame copies, and compares all but what is left out. The source is looked at first, and must not have changed by being copied.
func (w world) copySame(opts Options, leftOut ...string) Stats {
	w.t.Helper()
	want := portray(w.t, w.src)
	stats := w.copy(opts)
	wantSame(w.t, portray(w.t, w.dst), want, leftOut...)
	if w.t.Failed() {
		return stats
	}
	wantSame(w.t, portray(w.t, w.src), want)
	return stats
}

// A tree with one of everything.
func TestCopyHasEverythingThatTheSourceHas(t *testing.T) {
	onEach(t, func(t *testing.T, w world) {
		t.Helper()
		w.fillWithEverything()
		stats := w.copySame(Options{}, "./null", "./loop")
		want := Stats{Files: 7, Directories: 5, Others: 4, Links: 2, LeftOut: 2, Bytes: stats.Bytes, SharedBytes: stats.SharedBytes}
		if stats != want {
			t.Errorf("stats are %+v, want %+v", stats, want)
		}
		if shares := stats.SharedBytes > 0; shares != (w.fstype != disks.Ext4) {
			t.Errorf("%d bytes are shared on %s", stats.SharedBytes, w.fstype)
		}
	})
}

func (w world) fillWithEverything() {
	t := w.t
	t.Helper()
	for _, dir := range []string{"empty", "a/b/c", "a/\xff\xfe not UTF-8\n\t\x01"} {
		w.mkdir(dir)
	}
	w.write("file", "content")
	w.write("a/b/empty file", "")
	w.write("a/\xff\xfe not UTF-8\n\t\x01/"+strings.Repeat("n", 255), strings.Repeat("long", 100_000))
	w.write("program", "#!")
	must(t, os.Chown(w.in("program"), 1000, 2000))
	must(t, unix.Chmod(w.in("program"), 0o6751))
	w.write("a/linked", "linked")
	must(t, os.Link(w.in("a/linked"), w.in("a/b/link")))
	must(t, os.Symlink("nowhere", w.in("a/symlink")))
	must(t, os.Link(w.in("a/symlink"), w.in("symlink's link")))
	must(t, unix.Mkfifo(w.in("fifo"), 0o622))
	must(t, unix.Mknod(w.in("socket"), unix.S_IFSOCK|0o777, 0))
	must(t, unix.Mknod(w.in("null"), unix.S_IFCHR|0o666, 1<<8|3))
	must(t, unix.Mknod(w.in("loop"), unix.S_IFBLK|0o660, 7<<8))
	must(t, os.Symlink(strings.Repeat("t", 1000), w.in("a/long symlink")))
	w.write("sparse", "")
	must(t, os.Truncate(w.in("sparse"), 3<<20))
	f, err := os.OpenFile(w.in("sparse"), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("data"), 5000), 1<<20)
	must(t, err)
	must(t, f.Close())
	w.write("with acl", "for two")
	w.decorate()
}

// acl is user::rw-, user:1000:r--, group::r--, mask::rw-, other::---, as the kernel has it (linux/posix_acl_xattr.h).
const acl = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"

// netRaw is the capability CAP_NET_RAW, permitted and effective (linux/capability.h, struct vfs_cap_data).
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// decorate gives modes, extended attributes and, last, times.
func (w world) decorate() {
	t := w.t
	t.Helper()
	must(t, unix.Chmod(w.in("a/b"), 0o3770))
	must(t, os.Chown(w.in("a/b"), 7, 8))
	for _, x := range []struct{ name, attribute, value string }{
		{"file", "user.note", "with\x00zero"},
		{"file", "user.empty", ""},
		{"file", "trusted.overlay.opaque", "y"},
		{"program", capabilities, netRaw},
		{"a/b", "user.note", "on a directory"},
		{"a/b", "system.posix_acl_default", acl},
		{"with acl", "system.posix_acl_access", acl},
		{"a/symlink", "trusted.note", "on a symbolic link"},
		{"fifo", "trusted.note", "on a FIFO"},
	} {
		must(t, unix.Lsetxattr(w.in(x.name), x.attribute, []byte(x.value), 0))
	}
	at := time.Unix(1_000_000_000, 123_456_789)
	names := []string{"file", "a/b/c", "a/b", "a", "fifo", "socket", "sparse", "a/symlink", "."}
	for i, name := range names {
		mtime := at.Add(time.Duration(i) * time.Hour)
		times := []unix.Timespec{unix.NsecToTimespec(mtime.Add(time.Minute).UnixNano()), unix.NsecToTimespec(mtime.UnixNano())}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, w.in(name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
}
