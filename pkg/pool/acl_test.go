package pool

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// wantNoACLs checks a file and, of a directory, all below it.
func wantNoACLs(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if have := disks.ACLsOf(t, path); len(have) > 0 {
			t.Errorf("%s has %v", path, have)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// poolDirs are the directories of a pool in which it makes things.
func poolDirs() []string {
	return []string{layout.VolumesDir, layout.SnapshotsDir, layout.TmpDir, layout.TrashDir}
}

func TestDefaultACLAboveThePoolReachesNoVolume(t *testing.T) {
	specs := map[string]volume.Spec{
		"directory": {Type: volume.DirectoryOrCreate, Mode: 0o770, GID: 2000},
		"file":      {Type: volume.FileOrCreate, Mode: 0o660, GID: 2000},
		"image":     imageSpec(volume.Ext4),
	}
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, 0)
			disks.SetDefaultACL(t, disk.Dir)
			p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
			for name, spec := range specs {
				req := request(t, name, 16*mib)
				req.Spec = spec
				if _, err := p.Create(t.Context(), req); err != nil {
					t.Fatal(err)
				}
			}
			for _, dir := range poolDirs() {
				wantNoACLs(t, filepath.Join(p.opts.Path, dir))
			}
			if have := disks.ACLsOf(t, p.opts.Path); len(have) > 0 {
				t.Errorf("the pool has %v", have)
			}
		})
	}
}

// A pool of an older version has inherited them, and an administrator may set them.
func TestDefaultACLsOfAPoolAreRemovedWhenItIsOpened(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		for _, dir := range append([]string{"."}, poolDirs()...) {
			disks.SetACL(t, filepath.Join(p.opts.Path, dir))
			disks.SetDefaultACL(t, filepath.Join(p.opts.Path, dir))
		}
		p = restart(t, p)
		create(t, p, "v", mib)
		wantNoACLs(t, p.opts.Path)
		info, err := os.Stat(p.opts.Path)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the pool has mode %v, %v", info.Mode(), err)
		}
	})
}

func TestCopyKeepsTheACLsOfItsSource(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		v := create(t, p, "v", mib)
		disks.SetACL(t, dataPath(p, v.ID))
		disks.SetDefaultACL(t, dataPath(p, v.ID))
		s := snapshot(t, p, "s", v.ID)
		r := restore(t, p, from(t, "r", volume.FromSnapshot(s.ID), mib), only{p})
		for _, path := range []string{snapshotPath(p, s.ID), dataPath(p, r.ID)} {
			if have := disks.ACLsOf(t, path); len(have) != 2 {
				t.Errorf("%s has the ACLs %v, want both", path, have)
			}
		}
	})
}
