package copytree

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// meddler is a limiter that changes the source between two chunks of a file.
type meddler struct {
	before int // the chunk before which it meddles, from 0
	meddle func()
	chunks int
}

func (m *meddler) WaitN(ctx context.Context, _ int) error {
	if m.chunks == m.before {
		m.meddle()
	}
	m.chunks++
	return ctx.Err()
}

// elsewhere makes a fixture with the copy on another disk, so that bytes are copied, chunk by
// chunk, on any filesystem.
func elsewhere(t *testing.T) fixture {
	t.Helper()
	w := newFixture(t, disks.Ext4)
	w.dst = filepath.Join(disks.New(t, disks.XFS, 0).Dir, "dst")
	must(t, os.Mkdir(w.dst, 0o700))
	return w
}

func TestFileThatChangesWhileItIsReadIsCopied(t *testing.T) {
	const size = 8 * MaxChunk
	for _, c := range []struct {
		name   string
		meddle func(path string) error
		want   int64
	}{
		{"grows", func(path string) error { return appendTo(path, size) }, size},
		{"shrinks behind what was read", func(path string) error { return os.Truncate(path, 5*MaxChunk) }, 5 * MaxChunk},
		{"shrinks before what was read", func(path string) error { return os.Truncate(path, MaxChunk) }, 2 * MaxChunk},
		{"is emptied", func(path string) error { return os.Truncate(path, 0) }, 2 * MaxChunk},
		{"is removed", os.Remove, size},
		{"is replaced by a directory", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) }, size},
		{"becomes a hole", func(path string) error { return errors.Join(os.Truncate(path, 0), os.Truncate(path, size)) }, size},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := elsewhere(t)
			must(t, appendTo(w.in("file"), size))
			w.copy(
				Options{
					Workers: 1,
					Limiter: &meddler{before: 2, meddle: func() { must(t, c.meddle(w.in("file"))) }},
				},
			)
			content, err := os.ReadFile(filepath.Join(w.dst, "file"))
			must(t, err)
			if int64(len(content)) != c.want {
				t.Errorf("the copy has %d bytes, want %d", len(content), c.want)
			}
			if !bytes.Equal(content[:2*MaxChunk], pattern(2*MaxChunk)) {
				t.Error("what was read before the change is not in the copy")
			}
		})
	}
}

func pattern(size int) []byte { return bytes.Repeat([]byte("pattern!"), size/8) }

func appendTo(path string, size int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(pattern(size))
	return errors.Join(err, f.Close())
}

// If a program is replaced while it is read, the copy may have content of somebody else: it must
// not be set-ID.
func TestProgramThatChangesWhileItIsReadLosesItsSetIDBit(t *testing.T) {
	w := elsewhere(t)
	must(t, appendTo(w.in("program"), 4*MaxChunk))
	must(t, os.Chown(w.in("program"), 1000, 1000))
	w.copy(Options{Workers: 1, Limiter: &meddler{before: 2, meddle: func() {
		must(t, os.WriteFile(w.in("program"), pattern(4*MaxChunk), 0))
		must(t, os.Chown(w.in("program"), 0, 0))
		must(t, unix.Chmod(w.in("program"), 0o4755))
		must(t, unix.Setxattr(w.in("program"), capabilities, []byte(netRaw), 0))
	}}})
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(w.dst, "program"), &st))
	if st.Mode != unix.S_IFREG|0o755 {
		t.Errorf("the mode is %o, want 100755", st.Mode)
	}
	if n, err := unix.Getxattr(filepath.Join(w.dst, "program"), capabilities, nil); !errors.Is(
		err, unix.ENODATA,
	) {
		t.Errorf("the copy has %d bytes of capabilities, %v", n, err)
	}
}

// deeper is more levels than a walk has open at once.
const deeper = openLevels + 20

// buildStairs makes directories one in the other, and in each, after the directory, a file. The
// last directory has content.
func (w fixture) buildStairs() {
	w.t.Helper()
	path := "."
	for i := range deeper {
		path = filepath.Join(path, "l"+strconv.Itoa(i))
		w.mkdir(path)
		w.write(filepath.Dir(path)+"/after", "")
	}
	w.write(path+"/content", "content")
}

// While a walk is deep in the tree, the directories above are closed. The walk comes back to the
// same directories, wherever they are by then.
func TestDirectoryThatMovesWhileTheWalkIsBelowItIsCopiedWhole(t *testing.T) {
	w := elsewhere(t)
	w.buildStairs()
	want := stateOf(t, w.src)
	w.copy(Options{Workers: 1, Limiter: &meddler{meddle: func() {
		must(t, os.Rename(w.in("l0/l1/l2"), w.in("l0/moved")))
		must(t, os.Symlink("/etc", w.in("l0/l1/l2")))
	}}})
	got := stateOf(t, w.dst)
	for path := range want {
		if got[path] == "" && path != "./l0/moved" {
			t.Errorf("%s is not in the copy", path)
		}
	}
}

func TestDirectoryThatIsRemovedWhileTheWalkIsBelowItIsNoError(t *testing.T) {
	w := elsewhere(t)
	w.buildStairs()
	must(t, os.Chmod(w.in("l0"), 0o711))
	w.copy(
		Options{Workers: 1, Limiter: &meddler{meddle: func() { must(t, os.RemoveAll(w.in("l0"))) }}},
	)
	info, err := os.Stat(filepath.Join(w.dst, "l0"))
	must(t, err)
	if info.Mode().Perm() != 0o711 {
		t.Errorf("the mode of a directory that was removed is %o in the copy, want 711",
			info.Mode().Perm())
	}
}

func TestCopyStopsWhenItsContextEnds(t *testing.T) {
	w := elsewhere(t)
	must(t, appendTo(w.in("file"), 8*MaxChunk))
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	m := &meddler{before: 2, meddle: func() { cancel(enough) }}
	stats, err := w.try(ctx, Options{Limiter: m})
	if !errors.Is(err, enough) {
		t.Errorf("the error is %v, want the cause", err)
	}
	if stats.Bytes != 2*MaxChunk || m.chunks != 3 {
		t.Errorf("%d bytes were copied in %d chunks after the end", stats.Bytes, m.chunks)
	}
	if _, err := w.try(ctx, Options{}); !errors.Is(err, enough) {
		t.Errorf("a copy that begins after the end: %v, want the cause", err)
	}
}

func TestNoRoomIsAnErrorAndLeavesTheSource(t *testing.T) {
	for _, c := range []struct {
		name string
		mkfs []string
		fill func(w fixture)
	}{
		{"for content", nil, func(w fixture) { must(w.t, appendTo(w.in("large"), 80<<20)) }},
		{"for names", []string{"-N", "64"}, func(w fixture) {
			for i := range 100 {
				w.write(strings.Repeat("x", i+1), "")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFixture(t, disks.Btrfs)
			c.fill(w)
			want := stateOf(t, w.src)
			w.dst = disks.New(t, disks.Ext4, 64<<20, disks.MkfsArgs(c.mkfs...)).Dir
			if _, err := w.try(t.Context(), Options{}); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("the error is %v, want ENOSPC", err)
			}
			wantSame(t, stateOf(t, w.src), want)
		})
	}
}

func TestPolicyDecidesWhatOfThePrivilegedIsCopied(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		absent []string
		gone   map[string][]string // what a line of the treeState is without
	}{
		{policy: 0, absent: []string{"./null", "./loop"}},
		{policy: KeepDevices},
		{policy: KeepDevices | DropSockets, absent: []string{"./socket"}},
		{policy: KeepDevices | DropTrusted, gone: map[string][]string{
			"./file": {` trusted.overlay.opaque="y"`}, "./fifo": {` trusted.note="on a FIFO"`},
			"./a/symlink":      {` trusted.note="on a symbolic link"`},
			"./symlink's link": {` trusted.note="on a symbolic link"`},
		}},
		{policy: KeepDevices | DropSetID, gone: map[string][]string{
			"./program": {" " + capabilities + "=" + strconv.Quote(netRaw)},
		}},
	} {
		t.Run(strconv.FormatUint(uint64(c.policy), 2), func(t *testing.T) {
			w := newFixture(t, disks.Ext4)
			w.fillWithEverything()
			want := stateOf(t, w.src)
			for path, parts := range c.gone {
				for _, part := range parts {
					if !strings.Contains(want[path], part) {
						t.Fatalf("%s has no %s to lose: %s", path, part, want[path])
					}
					want[path] = strings.Replace(want[path], part, "", 1)
				}
			}
			if c.policy.has(DropSetID) {
				want["./program"] = strings.Replace(want["./program"], "mode=106751", "mode=100751", 1)
			}
			stats := w.copy(Options{Policy: c.policy})
			if int(stats.LeftOut) != len(c.absent) {
				t.Errorf("%d are left out, want %q", stats.LeftOut, slices.Sorted(slices.Values(c.absent)))
			}
			wantSame(t, stateOf(t, w.dst), want, c.absent...)
		})
	}
}

// overlayfs has no handles of directories: the directories above the walk stay open.
func TestTreeIsCopiedWhereDirectoriesHaveNoHandles(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	dir := filepath.Dir(w.src)
	for _, name := range []string{"lower", "upper", "work"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	must(
		t,
		unix.Mount(
			"overlay",
			w.dst,
			"overlay",
			0,
			"lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work",
		),
	)
	w.buildStairs()

	w.copySame(Options{Workers: 1})
}

// overlayfs marks a deleted file with a device node of the number 0:0, which is no device (mknod(2)
// needs no capability for it). If a copy of the upper directory lacked the node, the deleted file
// would be back. A volume may have such a directory, for example as storage of containers.
func TestWhiteoutOfOverlayfsIsCopied(t *testing.T) {
	onEach(t, func(t *testing.T, w fixture) {
		t.Helper()
		dir := filepath.Dir(w.src)
		lower, work, merged := filepath.Join(dir,
			"lower"), filepath.Join(dir, "work"), filepath.Join(dir, "merged")
		for _, d := range []string{lower, work, merged} {
			must(t, os.Mkdir(d, 0o755))
		}
		must(t, os.WriteFile(filepath.Join(lower, "deleted"), nil, 0o600))
		must(t, os.WriteFile(filepath.Join(lower, "kept"), nil, 0o600))
		overlay := func(upper string) {
			must(
				t,
				unix.Mount(
					"overlay",
					merged,
					"overlay",
					0,
					"lowerdir="+lower+",upperdir="+upper+",workdir="+work,
				),
			)
		}
		overlay(w.src)
		must(t, os.Remove(filepath.Join(merged, "deleted")))
		must(t, unix.Unmount(merged, 0))
		w.copy(Options{})
		overlay(w.dst)
		if got := countEntries(t, merged); got != 1 {
			t.Errorf("%d files are in what was copied, want the one that was not deleted", got)
		}
		must(t, unix.Unmount(merged, 0))
	})
}
