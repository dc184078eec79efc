package pool

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

var wholePool = []string{
	layout.LockFile, layout.RecordFile,
	layout.SnapshotsDir, layout.TmpDir, layout.TrashDir, layout.VolumesDir,
}

func TestOpenMakesAPoolOfAnUnusedDirectory(t *testing.T) {
	for _, tc := range []struct {
		title string
		path  string
		tree  map[string]string // the files below the test's directory
		more  []string          // the entries that stay beside the pool's own
	}{
		{title: "absent", path: "pool"},
		{title: "absent with parents", path: "a/b/pool"},
		{title: "empty", path: "pool", tree: map[string]string{"pool/": ""}},
		{
			title: "new filesystem", path: "pool",
			tree: map[string]string{"pool/lost+found/": ""},
			more: []string{"lost+found"},
		},
		{title: "crashed with a lock", path: "pool", tree: map[string]string{"pool/lock": "4711\n"}},
		{title: "crashed with a directory", path: "pool", tree: map[string]string{"pool/lock": "", "pool/volumes/": ""}},
		{
			title: "crashed with half a marker", path: "pool",
			tree: map[string]string{
				"pool/lock": "", "pool/volumes/": "", "pool/snapshots/": "", "pool/tmp/": "", "pool/trash/": "", "pool/pool.json.tmp": `{"formatVer`,
			},
		},
	} {
		t.Run(tc.title, func(t *testing.T) {
			root := t.TempDir()
			writeTree(t, root, tc.tree)
			p := openPool(t, Options{Name: "p", Path: filepath.Join(root, tc.path)})
			want := slices.Sorted(slices.Values(append(slices.Clone(tc.more), wholePool...)))
			if got := entries(t, p.opts.Path); !slices.Equal(got, want) {
				t.Errorf("the pool has %q, want %q", got, want)
			}
			if again := restart(t, p); again.ID() != p.ID() || p.ID() == "" {
				t.Errorf("pool ID is %q, then %q", p.ID(), again.ID())
			}
		})
	}
}

// mountMemory mounts a tmpfs until the test ends.
func mountMemory(t *testing.T, size int64) string {
	t.Helper()
	disks.RequireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestPoolInMemoryIsToldFromOneOnADisk(t *testing.T) {
	onDisk := disks.New(t, disks.Ext4, 16*mib)
	inMemory := mountMemory(t, 16*mib)
	for dir, want := range map[string]string{onDisk.Dir: "", inMemory: "tmpfs"} {
		p := openPool(t, Options{Name: "p", Path: filepath.Join(dir, "pool")})
		if got := p.Filesystem().Volatile; got != want {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
		closePool(t, p)
	}
}

// Only root may enter a pool. Others see its volumes only through bind mounts.
func TestPoolIsClosedToEverybodyButRoot(t *testing.T) {
	root := t.TempDir()
	writeTree(t, root, map[string]string{"pool/": ""}) // 0755
	defer unix.Umask(unix.Umask(0))                    // no test of this package is parallel
	p := openPool(t, Options{Name: "p", Path: filepath.Join(root, "pool")})
	v := create(t, p, "v", 1)
	for _, name := range []string{
		"", layout.VolumesDir, layout.SnapshotsDir, layout.TmpDir, layout.TrashDir,
		filepath.Join(layout.VolumesDir, v.ID.Dir()),
	} {
		info, err := os.Stat(filepath.Join(p.opts.Path, name))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("<pool>/%s: mode %v, %v, want 0700", name, info.Mode(), err)
		}
	}
	for _, name := range []string{
		layout.RecordFile, layout.LockFile,
		filepath.Join(layout.VolumesDir, v.ID.Dir(), record.VolumeFile),
	} {
		info, err := os.Stat(filepath.Join(p.opts.Path, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("<pool>/%s: mode %v, %v, want 0600", name, info.Mode(), err)
		}
	}
}

func TestDirectoryUnfitForAPoolIsRefusedUntouched(t *testing.T) {
	const uuid = `"uuid":"01234567-89ab-4def-8123-456789abcdef"`
	for _, tc := range []struct {
		title string
		tree  map[string]string
		want  error
		says  string
	}{
		{"foreign file", map[string]string{"notes.txt": "mine"}, volume.ErrUnavailable, "notes.txt"},
		{"foreign hidden file", map[string]string{".git/": ""}, volume.ErrUnavailable, ".git"},
		{"foreign beside own", map[string]string{"volumes/": "", "lock": "", "home/": ""}, volume.ErrUnavailable, "home"},
		{
			"lost marker",
			map[string]string{"volumes/pvc-1/data/file": "precious", "trash/": ""},
			volume.ErrUnavailable, layout.RecordFile,
		},
		{"lost marker, trash", map[string]string{"volumes/": "", "trash/x.01234567/data": ""}, volume.ErrUnavailable, "trash"},
		{
			"newer format",
			map[string]string{layout.RecordFile: `{"formatVersion":2,` + uuid + `}`},
			volume.ErrUnavailable, "format version 2",
		},
		{"empty marker", map[string]string{layout.RecordFile: ""}, volume.ErrCorrupt, layout.RecordFile},
		{"half a marker", map[string]string{layout.RecordFile: `{"formatVersion":1,`}, volume.ErrCorrupt, layout.RecordFile},
		{"marker without UUID", map[string]string{layout.RecordFile: `{"formatVersion":1}`}, volume.ErrCorrupt, "uuid"},
		{
			"marker with hostile UUID",
			map[string]string{layout.RecordFile: `{"formatVersion":1,"uuid":"../../../../../.."}`},
			volume.ErrCorrupt, "uuid",
		},
		{"marker is a directory", map[string]string{layout.RecordFile + "/": ""}, nil, ""},
		{"volumes is a file", map[string]string{"volumes": ""}, nil, ""},
	} {
		t.Run(tc.title, func(t *testing.T) {
			disks.RequireRoot(t)
			root := t.TempDir()
			writeTree(t, root, tc.tree)
			before := listTree(t, root)
			err := refused(t, Options{Name: "fast", Path: root})
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v: want %v", err, tc.want)
			}
			for _, says := range []string{"fast", root, tc.says} {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%q does not name %s", err, says)
				}
			}
			after := listTree(t, root)
			delete(after, layout.LockFile)
			delete(before, layout.LockFile)
			if !maps.Equal(after, before) {
				t.Errorf("the directory has %q now, had %q", after, before)
			}
		})
	}
}

func TestPathThatIsNoDirectoryIsRefused(t *testing.T) {
	disks.RequireRoot(t)
	root := t.TempDir()
	writeTree(t, root, map[string]string{"file": "mine"})
	_ = refused(t, Options{Name: "p", Path: filepath.Join(root, "file")})
	if content, err := os.ReadFile(filepath.Join(root, "file")); string(content) != "mine" {
		t.Errorf("the file has %q, %v", content, err)
	}
}

// If a symbolic link had the name of a pool's own directory, volumes would go where the link
// points.
func TestLinkInPlaceOfAnOwnEntryIsNotFollowed(t *testing.T) {
	for _, name := range []string{
		layout.VolumesDir, layout.TmpDir, layout.TrashDir, layout.RecordFile, layout.LockFile,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t)
			closePool(t, p)
			path := filepath.Join(p.opts.Path, name)
			if err := os.Rename(path, path+".real"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(path+".real", path); err != nil {
				t.Fatal(err)
			}
			_ = refused(t, p.opts)
		})
	}
}

func TestPoolBelongsToOneProcess(t *testing.T) {
	p := newPool(t)
	create(t, p, "v", 1)
	err := refused(t, p.opts)
	if !errors.Is(err, volume.ErrUnavailable) ||
		!strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second open: %v, want ErrUnavailable naming process %d", err, os.Getpid())
	}
	closePool(t, p)
	again := openPool(t, p.opts)
	if len(again.List("", 10)) != 1 {
		t.Errorf("after all that the pool has %v", again.List("", 10))
	}
}

func TestPoolThatMustBeADiskIsNotMadeBelowIt(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 32*mib)
	// As a directory of the host is mounted into a container.
	bound := filepath.Join(t.TempDir(), "bound")
	writeTree(t, bound, map[string]string{"/": ""})
	if err := unix.Mount(bound, bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bound, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	plain := t.TempDir()
	for _, path := range []string{
		plain, filepath.Join(plain, "absent"), bound, filepath.Join(disk.Dir, "below"),
	} {
		err := refused(t, Options{Name: "p", Path: path, RequireMountpoint: true})
		if !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", path, err)
		}
		if got, err := os.ReadDir(path); err == nil && len(got) > 0 {
			t.Errorf("%s has %v now", path, got)
		}
	}
	openPool(t, Options{Name: "p", Path: disk.Dir, RequireMountpoint: true})
}

func TestPoolThatMustExistIsNotMade(t *testing.T) {
	disks.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "pool")
	opts := Options{Name: "p", Path: path, MustExist: true}
	if _, err := Open(t.Context(), opts); !errors.Is(err, volume.ErrUnavailable) ||
		!errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v: want ErrUnavailable and os.ErrNotExist", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory exists: %v", err)
	}
	writeTree(t, path, map[string]string{"/": ""})
	openPool(t, opts)
}

func TestWhatACrashLeftInTmpIsThrownAway(t *testing.T) {
	for _, fstype := range disks.Types() { // filesystems differ in what an open directory still shows
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			v := create(t, p, "bystander", mib)
			writeTree(t, dataPath(p, v.ID), map[string]string{"file": "precious"})
			closePool(t, p)
			writeTree(t, filepath.Join(p.opts.Path, layout.TmpDir), map[string]string{
				"pvc-1.0123abcd/":             "",
				"pvc-2.0123abcd/data/file":    "half a copy",
				"pvc-3.0123abcd/volume.json":  `{"formatVersion":1,"na`,
				"bystander.1/data/other-file": "",
				"stray":                       "",
			})
			p = openPool(t, p.opts)
			waitPurged(t, p)
			wantLedger(t, p, mib, 0)
			wantEntries(t, p, layout.VolumesDir, "bystander")
			if content, err := os.ReadFile(
				filepath.Join(dataPath(p, v.ID), "file"),
			); string(
				content,
			) != "precious" {
				t.Errorf("the volume beside it has %q, %v", content, err)
			}
		})
	}
}
