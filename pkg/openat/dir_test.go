package openat

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// newTree makes a directory with links in every direction, and a mount.
func newTree(t *testing.T) Dir {
	t.Helper()
	disks.RequireRoot(t)
	outside := t.TempDir()
	write(t, filepath.Join(outside, "file"), "outside")
	top := mkdir(t, filepath.Join(outside, "top"))
	write(t, filepath.Join(top.Name(), "dir/file"), "inside")
	for link, target := range map[string]string{
		"link": "dir", "up": "..", "abs": outside, "in-root": "/dir/file", "dir/last": "file",
	} {
		must(t, os.Symlink(target, filepath.Join(top.Name(), link)))
	}
	point := filepath.Join(top.Name(), "mount")
	must(t, os.Mkdir(point, 0o755))
	must(t, unix.Mount("tmpfs", point, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	write(t, filepath.Join(point, "file"), "mounted")
	return top
}

func TestResolveLeadsOnlyThroughWhatIsAllowed(t *testing.T) {
	top := newTree(t)
	for _, tt := range []struct {
		path    string
		resolve Resolve
		want    string
		err     error
	}{
		{"dir/file", OnMount, "inside", nil},
		{"dir/../dir/file", OnMount, "inside", nil},
		{"mount/file", OnMount, "", unix.EXDEV},
		{"mount/file", Beneath, "mounted", nil},
		{"link/file", OnMount, "", unix.ELOOP},
		{"link/file", Beneath, "", unix.ELOOP},
		{"dir/last", Beneath, "", unix.ELOOP},
		{"up/file", Beneath, "", unix.ELOOP},
		{"../file", Beneath, "", unix.EXDEV},
		{"/etc/passwd", Beneath, "", unix.EXDEV},
		{"abs/file", Beneath, "", unix.ELOOP},
		{"absent", Beneath, "", unix.ENOENT},
		{"dir/file/x", Beneath, "", unix.ENOTDIR},
		{"link/file", InRoot, "inside", nil},
		{"in-root", InRoot, "inside", nil},
		{"dir/last", InRoot, "inside", nil},
		{"../../dir/file", InRoot, "inside", nil},
		{"abs/file", InRoot, "", unix.ENOENT},
	} {
		t.Run(tt.path+" "+strconv.FormatUint(uint64(tt.resolve), 16), func(t *testing.T) {
			f, err := top.Resolve(tt.path, unix.O_RDONLY, tt.resolve)
			if !errors.Is(err, tt.err) {
				t.Fatalf("%v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			defer f.Close()
			if content, err := io.ReadAll(f); string(content) != tt.want || err != nil {
				t.Errorf("it has %q, %v, want %q", content, err, tt.want)
			}
		})
	}
}

func TestOPathDescriptorOfALinkIsTheLinkUnlessInRoot(t *testing.T) {
	top := newTree(t)
	for resolve, want := range map[Resolve]os.FileMode{Beneath: os.ModeSymlink, InRoot: 0} {
		f, err := top.Resolve("dir/last", unix.O_PATH, resolve)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		if info, err := f.Stat(); err != nil || info.Mode().Type() != want {
			t.Errorf("with %x it is %v, %v, want type %v", resolve, info.Mode(), err, want)
		}
	}
}

func TestMountPointIsNotOpenedAsADirectoryOfTheTree(t *testing.T) {
	top := newTree(t)
	d, err := top.OpenUnmounted("dir")
	must(t, err)
	d.Close()
	for _, name := range []string{"mount", "link", "up"} {
		if d, err := top.OpenUnmounted(name); err == nil {
			t.Errorf("%s was opened: %s", name, d.Name())
		}
	}
}

func TestNewEntriesAreForRootAndReplaceNothing(t *testing.T) {
	top := mkdir(t, filepath.Join(t.TempDir(), "top"))
	old := unix.Umask(0)
	defer unix.Umask(old)
	d, err := top.Mkdir("dir")
	must(t, err)
	defer d.Close()
	var synced *os.File
	must(t, d.WriteFile("file", []byte("content"), func(f *os.File) error { synced = f; return nil }))
	if synced == nil {
		t.Error("the file was not synced")
	}
	for path, want := range map[string]os.FileMode{"dir": os.ModeDir | 0o700, "dir/file": 0o600} {
		if info, err := os.Stat(filepath.Join(top.Name(), path)); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if _, err := top.Mkdir("dir"); !errors.Is(err, os.ErrExist) {
		t.Errorf("the directory again: %v, want os.ErrExist", err)
	}
	if _, err := d.Create("file"); !errors.Is(err, os.ErrExist) {
		t.Errorf("the file again: %v, want os.ErrExist", err)
	}
	must(t, d.WriteFile("other", nil, (*os.File).Sync))
	if err := d.RenameNoReplace("other", d, "file"); !errors.Is(err, os.ErrExist) {
		t.Errorf("renamed to a taken name: %v, want os.ErrExist", err)
	}
	must(t, d.RenameNoReplace("file", top, "moved"))
	wantEntries(t, top.Name(), "dir", "moved")
	wantEntries(t, filepath.Join(top.Name(), d.Name()), "other")
}

func wantIdentity(t *testing.T, f *os.File, want Identity) {
	t.Helper()
	if got, err := IdentityOf(f); got != want || err != nil {
		t.Errorf("%s is %v, %v, want %v", f.Name(), got, err, want)
	}
}

// Whatever has the name by now, the descriptor is of the same file.
func TestReopenedFileIsTheOpenOne(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write(t, path, "content")
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	must(t, err)
	defer f.Close()
	id, err := IdentityOf(f)
	must(t, err)
	must(t, os.Rename(path, filepath.Join(dir, "moved")))
	write(t, path, "another")
	again, err := Reopen(f, unix.O_RDONLY)
	must(t, err)
	defer again.Close()
	wantIdentity(t, again, id)
	if content, err := io.ReadAll(again); string(content) != "content" || err != nil {
		t.Errorf("it has %q, %v", content, err)
	}
	fds, err := OpenFDDir()
	must(t, err)
	defer unix.Close(fds)
	fd, err := OpenFD(fds, strconv.Itoa(int(f.Fd())), unix.O_RDONLY, 0)
	must(t, err)
	byNumber := os.NewFile(uintptr(fd), "by number")
	defer byNumber.Close()
	wantIdentity(t, byNumber, id)
}

// A walk closes a directory, and goes on where it was when it comes back.
func TestEntryReaderGoesOnInADirectoryThatWasOpenedAgain(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			const count = 2000 // several buffers
			top := newDir(t, fstype)
			for i := range count {
				write(t, filepath.Join(top.Name(), strconv.Itoa(i)), "")
			}
			var r EntryReader
			seen := map[string]int{}
			for {
				d, err := top.OpenDir(".")
				must(t, err)
				must(t, r.Seek(d.FD()))
				var e Entry
				for range 7 {
					if e, err = r.Next(d.FD()); err != nil {
						break
					}
					seen[e.Name]++
				}
				d.Close()
				r.Forget()
				if errors.Is(err, io.EOF) {
					break
				}
				must(t, err)
			}
			for i := range count {
				if n := seen[strconv.Itoa(i)]; n != 1 {
					t.Errorf("%d was returned %d times", i, n)
				}
			}
			if len(seen) != count {
				t.Errorf("%d names were returned, want %d", len(seen), count)
			}
		})
	}
}
