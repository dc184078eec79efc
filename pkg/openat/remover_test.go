package openat

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/litter"
)

// newDir makes a directory on a new filesystem.
func newDir(t *testing.T, fstype string, opts ...disks.Option) Dir {
	t.Helper()
	return mkdir(t, filepath.Join(disks.New(t, fstype, 0, opts...).Dir, "top"))
}

func mkdir(t *testing.T, path string) Dir {
	t.Helper()
	must(t, os.Mkdir(path, 0o755))
	d, err := OpenDir(path)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

func wantEntries(t *testing.T, path string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s has %q, want %q", path, got, want)
	}
}

func TestRemoverRemovesWhateverAPodLeaves(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			d := newDir(t, fstype)
			for _, tree := range litter.Trees() {
				t.Run(tree.Title, func(t *testing.T) {
					litter.Plant(t, d.Name(), tree.Nodes)
					must(t, NewRemover(nil).Empty(t.Context(), d))
					wantEntries(t, d.Name())
				})
			}
		})
	}
}

func TestRemoveTakesTheEntryAwayWhateverItIs(t *testing.T) {
	d := newDir(t, disks.Ext4)
	for _, tree := range litter.Trees() {
		t.Run(tree.Title, func(t *testing.T) {
			top := mkdir(t, filepath.Join(d.Name(), "entry"))
			litter.Plant(t, top.Name(), tree.Nodes)
			litter.SetAttributes(t, top.Name(), litter.Immutable)
			must(t, NewRemover(nil).Remove(t.Context(), d, "entry"))
			wantEntries(t, d.Name())
		})
	}
	write(t, filepath.Join(d.Name(), "entry"), "content")
	for range 2 { // an absent entry is no error
		must(t, NewRemover(nil).Remove(t.Context(), d, "entry"))
		wantEntries(t, d.Name())
	}
}

// An ext4 without the feature filetype does not say which entry is a directory.
func TestRemoverNeedsNoTypesOfEntries(t *testing.T) {
	d := newDir(t, disks.Ext4, disks.MkfsArgs("-O", "^filetype"))
	write(t, filepath.Join(d.Name(), "a/b/f"), "content")
	write(t, filepath.Join(d.Name(), "f"), "content")
	must(t, NewRemover(nil).Empty(t.Context(), d))
	wantEntries(t, d.Name())
}

// A path of 10,000 components is longer than a system call takes, and a recursion of that depth
// would need too many descriptors.
func TestRemoverRemovesATreeOfAnyDepth(t *testing.T) {
	const depth = 10_000
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			top := newDir(t, fstype)
			at, err := top.OpenDir(".")
			must(t, err)
			for i := range depth {
				below, err := at.Mkdir("d")
				must(t, err)
				at.Close()
				if at = below; i%1000 == 500 {
					must(t, at.WriteFile("file", []byte("content"), (*os.File).Sync))
				}
			}
			at.Close()
			must(t, NewRemover(nil).Empty(t.Context(), top))
			wantEntries(t, top.Name())
		})
	}
}

// A deep directory is moved before it is emptied, which attributes forbid as well.
func TestRemoverRemovesWhatIsImmutableAtAnyDepth(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			d := newDir(t, fstype)
			path := filepath.Join(d.Name(), strings.Repeat("d/", removeDepth+2))
			must(t, os.MkdirAll(path, 0o755))
			for ; path != d.Name(); path = filepath.Dir(path) {
				litter.SetAttributes(t, path, litter.Immutable)
			}
			must(t, NewRemover(nil).Empty(t.Context(), d))
			wantEntries(t, d.Name())
		})
	}
}

func TestRemoverFollowsNoLink(t *testing.T) {
	host, d := t.TempDir(), newDir(t, disks.Ext4)
	write(t, filepath.Join(host, "dir/file"), "precious")
	beside := filepath.Join(filepath.Dir(d.Name()), "beside")
	write(t, beside, "precious")
	litter.Plant(t, d.Name(), []litter.Node{
		{Path: "to-dir", Kind: litter.Link, Target: filepath.Join(host, "dir")},
		{Path: "to-file", Kind: litter.Link, Target: filepath.Join(host, "dir/file")},
		{Path: "up", Kind: litter.Link, Target: ".."},
		{Path: "to-root", Kind: litter.Link, Target: "/"},
	})
	must(t, NewRemover(nil).Empty(t.Context(), d))
	wantEntries(t, d.Name())
	for _, path := range []string{filepath.Join(host, "dir/file"), beside} {
		if content, err := os.ReadFile(path); string(content) != "precious" {
			t.Errorf("%s has %q, %v", path, content, err)
		}
	}
}

func TestRemoverEntersNoMountAndRemovesTheRest(t *testing.T) {
	d := newDir(t, disks.Ext4)
	point := filepath.Join(d.Name(), "a/b/mnt")
	must(t, os.MkdirAll(point, 0o755))
	write(t, filepath.Join(d.Name(), "a/z"), "content")
	must(t, unix.Mount("tmpfs", point, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	write(t, filepath.Join(point, "file"), "precious")
	if err := NewRemover(nil).Empty(t.Context(), d); err == nil ||
		!strings.Contains(err.Error(), "is a mount point") {
		t.Errorf("%v, want it to name the mount point", err)
	}
	wantEntries(t, filepath.Join(d.Name(), "a"), "b")
	wantEntries(t, point, "file")
	must(t, unix.Unmount(point, 0))
	must(t, NewRemover(nil).Empty(t.Context(), d))
	wantEntries(t, d.Name())
}

func TestRemoverKeepsNamesAtTheTopAlone(t *testing.T) {
	d := newDir(t, disks.Ext4)
	for _, name := range []string{"keep", "data/keep", "file"} {
		write(t, filepath.Join(d.Name(), name), "content")
	}
	must(t, NewRemover(nil).Empty(t.Context(), d, "keep", "absent"))
	wantEntries(t, d.Name(), "keep")
}

// What is left when the removal was ended is removed by the next one.
func TestRemoverEndsWhenItsYieldFailsOrItsContextEnds(t *testing.T) {
	d, enough := newDir(t, disks.Ext4), errors.New("enough")
	for i := range 10 {
		write(t, filepath.Join(d.Name(), strconv.Itoa(i)), "content")
	}
	calls := 0
	r := NewRemover(func(context.Context) error {
		if calls++; calls > 5 {
			return enough
		}
		return nil
	})
	if err := r.Empty(t.Context(), d); !errors.Is(err, enough) {
		t.Errorf("%v, want the error of the yield", err)
	}
	if left, err := os.ReadDir(d.Name()); len(left) != 5 {
		t.Errorf("%d entries are left, %v, want 5", len(left), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewRemover(nil).Empty(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's error", err)
	}
	must(t, NewRemover(nil).Empty(t.Context(), d))
	wantEntries(t, d.Name())
}

// A pod can have any number of directories side by side below removeDepth. To remember them all
// would take more memory than the driver may have.
func TestRemovalOfADeepAndWideTreeRemembersNothing(t *testing.T) {
	const wide = 20_000
	top := mkdir(t, filepath.Join(t.TempDir(), "top"))
	at := filepath.Join(top.Name(), strings.Repeat("d/", removeDepth))
	for i := range wide {
		must(t, os.MkdirAll(filepath.Join(at, strconv.Itoa(i)), 0o755))
	}
	r, before := NewRemover(nil), bytesInUse()
	must(t, r.Empty(t.Context(), top))
	more := bytesInUse() - before
	runtime.KeepAlive(r)
	wantEntries(t, top.Name())
	if more > 512<<10 {
		t.Errorf("the remover has %d bytes for %d directories", more, wide)
	}
}

func bytesInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // less than the machine has
}
