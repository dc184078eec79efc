package copytree

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// onEach runs a test on each filesystem, with an empty source.
func onEach(t *testing.T, test func(t *testing.T, w fixture)) {
	t.Helper()
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) { test(t, newFixture(t, fstype)) })
	}
}

// fixture is a source and its copy, on one disk.
type fixture struct {
	t        testing.TB
	src, dst string
	fstype   string
}

func newFixture(t testing.TB, fstype string, opts ...disks.Option) fixture {
	t.Helper()
	dir := disks.New(t, fstype, 0, opts...).Dir
	w := fixture{t: t, src: filepath.Join(dir, "src"), dst: filepath.Join(dir, "dst"), fstype: fstype}
	must(t, os.Mkdir(w.src, 0o755))
	must(t, os.Mkdir(w.dst, 0o700))
	return w
}

// in returns a path in the source.
func (w fixture) in(name string) string { return filepath.Join(w.src, name) }

func (w fixture) mkdir(name string) {
	w.t.Helper()
	must(w.t, os.MkdirAll(w.in(name), 0o755))
}

func (w fixture) write(name, content string) {
	w.t.Helper()
	must(w.t, os.WriteFile(w.in(name), []byte(content), 0o644))
}

// try copies src to dst.
func (w fixture) try(ctx context.Context, opts Options) (Stats, error) {
	w.t.Helper()
	return tryPaths(w.t, ctx, w.src, w.dst, opts)
}

//nolint:revive // t comes first in tests
func tryPaths(
	t testing.TB, ctx context.Context, from, to string, opts Options,
) (Stats, error) {
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

func (w fixture) copy(opts Options) Stats {
	w.t.Helper()
	stats, err := w.try(w.t.Context(), opts)
	must(w.t, err)
	return stats
}

// copySame copies, and compares everything except the paths that are left out. The copying must not
// change the source.
func (w fixture) copySame(opts Options, leftOut ...string) Stats {
	w.t.Helper()
	want := stateOf(w.t, w.src)
	stats := w.copy(opts)
	wantSame(w.t, stateOf(w.t, w.dst), want, leftOut...)
	if w.t.Failed() {
		return stats
	}
	wantSame(w.t, stateOf(w.t, w.src), want)
	return stats
}

// A tree with one of everything.
func TestCopyHasEverythingThatTheSourceHas(t *testing.T) {
	onEach(t, func(t *testing.T, w fixture) {
		t.Helper()
		w.fillWithEverything()
		stats := w.copySame(Options{}, "./null", "./loop")
		want := Stats{
			Files:       7,
			Directories: 5,
			Others:      4,
			Links:       2,
			LeftOut:     2,
			Bytes:       stats.Bytes,
			SharedBytes: stats.SharedBytes,
		}
		want.AllocatedBytes = stats.AllocatedBytes
		if stats != want {
			t.Errorf("stats are %+v, want %+v", stats, want)
		}
		if shares := stats.SharedBytes > 0; shares != (w.fstype != disks.Ext4) {
			t.Errorf("%d bytes are shared on %s", stats.SharedBytes, w.fstype)
		}
	})
}

func (w fixture) fillWithEverything() {
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

// acl is user::rw-, user:1000:r--, group::r--, mask::rw-, other::---, in the kernel's form
// (linux/posix_acl_xattr.h).
const acl = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" +
	"\x20\x00\x00\x00\xff\xff\xff\xff"

// netRaw is the capability CAP_NET_RAW, permitted and effective (linux/capability.h, struct
// vfs_cap_data).
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// decorate sets modes, extended attributes and, last, times.
func (w fixture) decorate() {
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
		times := []unix.Timespec{
			unix.NsecToTimespec(mtime.Add(time.Minute).UnixNano()),
			unix.NsecToTimespec(mtime.UnixNano()),
		}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, w.in(name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// Between two filesystems nothing is shared; what both support is copied.
func TestCopyToAnotherFilesystemHasTheSame(t *testing.T) {
	for _, c := range [][2]string{
		{disks.Ext4, disks.XFS},
		{disks.XFS, disks.Btrfs},
		{disks.Btrfs, disks.Ext4},
		{disks.XFS, disks.Ext4},
		{disks.XFS, disks.XFS},
	} {
		t.Run(c[0]+" to "+c[1], func(t *testing.T) {
			w := newFixture(t, c[0])
			w.fillWithEverything()
			w.dst = disks.New(t, c[1], 0).Dir
			stats, want, got := w.copy(Options{Policy: KeepDevices}), stateOf(t, w.src), stateOf(t, w.dst)
			delete(got, "./lost+found")
			wantSame(t, got, want)
			if stats.SharedBytes != 0 {
				t.Errorf("%d bytes are said to be shared", stats.SharedBytes)
			}
		})
	}
}

func TestFileIsCopiedIntoAFile(t *testing.T) {
	onEach(t, func(t *testing.T, w fixture) {
		t.Helper()
		w.fillWithEverything()
		for _, name := range []string{"file", "program", "sparse", "a/b/empty file"} {
			dst := filepath.Join(w.dst, strings.ReplaceAll(name, "/", "-"))
			must(t, os.WriteFile(dst, nil, 0o600))
			_, err := tryPaths(t, t.Context(), w.in(name), dst, Options{})
			must(t, err)
			wantSame(t, stateOfFile(t, dst), stateOfFile(t, w.in(name)))
		}
	})
}

func TestKindsThatDifferAreRefused(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	w.write("file", "")
	must(t, unix.Mkfifo(w.in("fifo"), 0o600))
	for _, c := range [][2]string{
		{w.in("file"), w.dst}, {w.src, w.in("file")}, {w.in("fifo"), w.in("file")},
	} {
		if _, err := tryPaths(t, t.Context(), c[0], c[1], Options{}); err == nil {
			t.Errorf("%s was copied to %s", c[0], c[1])
		}
	}
}

// However deep a tree is, few descriptors are open, and no path is used, which could be too long.
func TestDeepTreeNeedsFewDescriptors(t *testing.T) {
	onEach(t, copyDeepTree)
}

// The same if directories do not tell the types of their entries (DT_UNKNOWN of getdents(2)).
func TestDeepTreeWithoutTypesOfEntriesNeedsFewDescriptors(t *testing.T) {
	w := newFixture(t, disks.Ext4, disks.MkfsArgs("-O", "^filetype"))
	w.mkdir("entry")
	dir, err := unix.Open(w.src, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(dir)
	if e, err := (&openat.EntryReader{}).Next(dir); err != nil || e.Type != unix.DT_UNKNOWN {
		t.Fatalf("the directory says of %+v what it is, %v", e, err)
	}
	must(t, os.Remove(w.in("entry")))
	copyDeepTree(t, w)
}

func copyDeepTree(t *testing.T, w fixture) {
	t.Helper()
	const depth = 5000
	dir, err := unix.Open(w.src, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	for i := range depth {
		must(t, unix.Mkdirat(dir, "d", 0o755))
		if i%100 == 0 { // found on the way back
			must(t, unix.Mkdirat(dir, "side", 0o700))
			must(t, unix.Symlinkat("target", dir, "link"))
		}
		next, err := unix.Openat(dir, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(dir))
		dir = next
	}
	must(t, unix.Close(dir))
	want := stateOf(t, w.src)
	if len(want) < depth {
		t.Fatalf("the source has %d entries", len(want))
	}
	limitDescriptors(t, 2*100)
	stats := w.copy(Options{Workers: 2})
	if stats.Directories != depth+depth/100 {
		t.Errorf("%d directories were copied, want %d", stats.Directories, depth+depth/100)
	}
	limitDescriptors(t, 2*depth)
	wantSame(t, stateOf(t, w.dst), want)
}

// Something is remembered of each level. If the depth had no limit, a pod could make the driver
// take more memory than it may.
func TestTreeThatIsDeeperThanAnyPathIsRefused(t *testing.T) {
	for _, tc := range []struct {
		depth int
		want  error
	}{{maxDepth, nil}, {maxDepth + 1, ErrTooDeep}} {
		w := newFixture(t, disks.XFS)
		dir, err := unix.Open(w.src, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		for range tc.depth {
			must(t, unix.Mkdirat(dir, "d", 0o755))
			next, err := unix.Openat(dir, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			must(t, unix.Close(dir))
			dir = next
		}
		must(t, unix.Close(dir))
		for _, workers := range []int{1, 4} { // who hands directories over counts all the same
			next := w.next(strconv.Itoa(workers))
			if stats, err := next.try(
				t.Context(),
				Options{Workers: workers, Durability: Volatile},
			); !errors.Is(err, tc.want) {
				t.Errorf("%d levels copied by %d: %+v, %v, want %v", tc.depth, workers, stats, err, tc.want)
			}
		}
	}
}

// limitDescriptors lets the process open that many more files.
func limitDescriptors(t *testing.T, more uint64) {
	t.Helper()
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	open, err := os.ReadDir(filepath.Dir(openat.PathOfFD(0)))
	must(t, err)
	must(t,
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open)) + more, Max: old.Max}))
	t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) })
}

// A sparse file of a terabyte takes the time and the space of its data.
func TestHolesStayHoles(t *testing.T) {
	const size, island = 1 << 40, 1 << 20
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			w := newFixture(t, fstype)
			w.write("sparse", "")
			must(t, os.Truncate(w.in("sparse"), size))
			f, err := os.OpenFile(w.in("sparse"), os.O_WRONLY, 0)
			must(t, err)
			for _, at := range []int64{3 << 30, 1 << 39, 1<<39 + 8*island, size - 5*island} {
				_, err := f.WriteAt(pattern(island), at)
				must(t, err)
			}
			must(t, errors.Join(f.Sync(), f.Close()))
			want := stateOf(t, w.src)
			w.copySame(Options{})
			other := disks.New(t, disks.Btrfs, 0).Dir
			stats, err := tryPaths(t, t.Context(), w.src, other, Options{})
			must(t, err)
			wantSame(t, stateOf(t, other), want)
			if stats.Bytes != 4*island {
				t.Errorf("%d bytes were copied, want %d", stats.Bytes, 4*island)
			}
			for _, path := range []string{filepath.Join(w.dst, "sparse"), filepath.Join(other, "sparse")} {
				var st unix.Stat_t
				must(t, unix.Stat(path, &st))
				if taken := st.Blocks * 512; taken < 4*island || taken > 5*island {
					t.Errorf("%s takes %d bytes, want %d and a little", path, taken, 4*island)
				}
			}
		})
	}
}

// If a file has more links than the other filesystem allows (ext4: 65,000), the copy has two files.
func TestMoreLinksThanTheFilesystemAllowsAreAllCopied(t *testing.T) {
	const links = 65_100
	w := newFixture(t, disks.XFS)
	w.write("0", "linked")
	for i := 1; i < links; i++ {
		must(t, os.Link(w.in("0"), w.in(strconv.Itoa(i))))
	}
	w.dst = disks.New(t, disks.Ext4, 0).Dir
	stats := w.copy(Options{})
	if stats.Files != 2 || stats.Links != links-2 {
		t.Errorf("stats are %+v, want 2 files and %d links", stats, links-2)
	}
	for i := range links {
		if content, err := os.ReadFile(filepath.Join(w.dst, strconv.Itoa(i))); err != nil ||
			string(content) != "linked" {
			t.Fatalf("link %d has the content %q, %v", i, content, err)
		}
	}
	entries, err := os.ReadDir(w.dst)
	must(t, err)
	if len(entries) != links+1 { // and lost+found
		t.Errorf("the copy has %d entries, want %d", len(entries), links+1)
	}
}

// A power cut leaves what is in the disk's image, without what the filesystem has in memory.
func TestCopySurvivesAPowerCut(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, 0)
			w := fixture{
				t:      t,
				fstype: fstype,
				src:    filepath.Join(disk.Dir, "src"),
				dst:    filepath.Join(disk.Dir, "dst"),
			}
			must(t, errors.Join(os.Mkdir(w.src, 0o755), os.Mkdir(w.dst, 0o755)))
			w.fillWithEverything()
			want := stateOf(t, w.src)
			w.copy(Options{Policy: KeepDevices})
			cut := filepath.Join(t.TempDir(), "cut.img")
			run(t, "cp", "--sparse=always", disk.Image, cut)
			// btrfs mounts only one of two filesystems with the same ID.
			must(t, unix.Unmount(disk.Dir, 0))
			mountImage(t, cut, disk.Dir)
			wantSame(t, stateOf(t, w.dst), want)
		})
	}
}

func mountImage(t *testing.T, image, dir string) {
	t.Helper()
	run(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// A file with a lease is copied after its process has been asked to give the lease up.
func TestLeasedFileIsCopiedWhenTheLeaseIsGivenBack(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	w.write("leased", "content")
	f, err := os.OpenFile(w.in("leased"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGIO)
	defer signal.Stop(asked)
	want, fd := stateOf(t, w.src), f.Fd()
	_, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_WRLCK)
	must(t, err)
	given := make(chan error)
	go func() {
		<-asked
		_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		given <- err
	}()
	w.copy(Options{})
	must(t, <-given)
	wantSame(t, stateOf(t, w.dst), want)
}

// No thread may end, because a process can ask to be killed when the thread ends that has started
// it; and no thread may keep its low priority.
func TestCopyLeavesThreadsAsTheyWere(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	w.fillWithEverything()
	w.copy(Options{Workers: 4})
	threads, err := os.ReadDir("/proc/self/task")
	must(t, err)
	own, err := unix.Getpriority(unix.PRIO_PROCESS, os.Getpid())
	must(t, err)
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		must(t, err)
		if priority, err := unix.Getpriority(unix.PRIO_PROCESS, id); err == nil && priority != own {
			t.Errorf("thread %d has the priority %d, the process %d", id, priority, own)
		}
	}
}
