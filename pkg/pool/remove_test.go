package pool

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/litter"
)

func TestPurgeRemovesWhateverAPodLeaves(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			for _, tc := range litter.Trees() {
				t.Run(tc.Title, func(t *testing.T) {
					v := create(t, p, "v", mib)
					litter.Plant(t, dataPath(p, v.ID), tc.Nodes)
					remove(t, p, v.ID)
					waitPurged(t, p)
				})
			}
			closePool(t, p)
		})
	}
}

func poolOn(t *testing.T, fstype string) *Pool {
	t.Helper()
	disk := disks.New(t, fstype, 0)
	return openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
}

func TestPurgeFollowsNoLink(t *testing.T) {
	p := newPool(t)
	host := t.TempDir()
	writeTree(t, host, map[string]string{"etc/passwd": "root", "etc/dir/file": "precious"})
	v := create(t, p, "v", mib)
	neighbour := create(t, p, "w", mib)
	writeTree(t, dataPath(p, neighbour.ID), map[string]string{"file": "precious"})
	litter.Plant(t, dataPath(p, v.ID), []litter.Node{
		{Path: "to-dir", Kind: litter.Link, Target: filepath.Join(host, "etc")},
		{Path: "to-file", Kind: litter.Link, Target: filepath.Join(host, "etc/passwd")},
		{Path: "up", Kind: litter.Link, Target: "../../../.."},
		{Path: "to-neighbour", Kind: litter.Link, Target: "../../w/data"},
		{Path: "to-root", Kind: litter.Link, Target: "/"},
	})
	if err := os.Link(
		filepath.Join(host, "etc/passwd"),
		filepath.Join(dataPath(p, v.ID), "hard"),
	); err != nil {
		t.Fatal(err)
	}
	remove(t, p, v.ID)
	waitPurged(t, p)
	if got := listTree(t, host); got["etc/passwd"] != "root" || got["etc/dir/file"] != "precious" {
		t.Errorf("the host has %q", got)
	}
	if got := listTree(t, dataPath(p, neighbour.ID)); got["file"] != "precious" {
		t.Errorf("the volume beside it has %q", got)
	}
}

// The purge moves a deep directory before it empties the directory. An immutable directory
// (chattr(1)) cannot be moved either.
func TestPurgeRemovesWhatIsImmutableAtAnyDepth(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			p.trash.RetryAfter = 5 * time.Millisecond
			v := create(t, p, "v", mib)
			root := dataPath(p, v.ID)
			at := filepath.Join(root, strings.Repeat("d/", 100))
			writeTree(t, at, map[string]string{"/": ""})
			for ; at != root; at = filepath.Dir(at) {
				litter.SetAttributes(t, at, litter.Immutable)
			}
			remove(t, p, v.ID)
			waitPurged(t, p)
		})
	}
}

// The mount may show another volume, or the host's root.
func TestPurgeEntersNoMount(t *testing.T) {
	for _, tc := range []struct {
		title string
		path  string // the mount point, relative to the volume
		kind  litter.Kind
	}{
		{"on a directory", "a/b/mnt", litter.Dir},
		{"on a file", "a/b/mnt", litter.File},
		{"on the data itself", "", litter.Dir},
	} {
		t.Run(tc.title, func(t *testing.T) {
			p := newPool(t)
			p.trash.RetryAfter = 5 * time.Millisecond
			source := filepath.Join(t.TempDir(), "source")
			litter.Plant(t, source, []litter.Node{{Kind: tc.kind}})
			if tc.kind == litter.Dir {
				writeTree(t, source, map[string]string{"file": "precious"})
			}
			v := create(t, p, "v", mib)
			writeTree(t, dataPath(p, v.ID), map[string]string{"a/b/": "", "a/z": ""})
			point := filepath.Join(dataPath(p, v.ID), tc.path)
			if tc.path != "" {
				litter.Plant(t, point, []litter.Node{{Kind: tc.kind}})
			}
			if err := unix.Mount(source, point, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			remove(t, p, v.ID)
			deleted := filepath.Join(p.opts.Path, layout.TrashDir,
				entries(t, filepath.Join(p.opts.Path, layout.TrashDir))[0])
			t.Cleanup(
				func() { _ = unix.Unmount(filepath.Join(deleted, backend.Data, tc.path), unix.MNT_DETACH) },
			)
			eventually(t, "the purge reports its failure",
				func() bool { return status(t, p).PurgesFailing == 1 })
			wantLedger(t, p, 0, mib)
			if _, err := os.Stat(filepath.Join(deleted, record.VolumeFile)); err != nil {
				t.Errorf("the record was removed before the data: %v", err)
			}
			if got := listTree(t, filepath.Dir(source)); got["source/file"] != "precious" &&
				got["source"] != "content" {
				t.Errorf("what was mounted there has %q", got)
			}
			if err := unix.Unmount(filepath.Join(deleted, backend.Data, tc.path), 0); err != nil {
				t.Fatal(err)
			}
			waitPurged(t, p)
			eventually(t, "the failure is over", func() bool { return status(t, p).PurgesFailing == 0 })
		})
	}
}
