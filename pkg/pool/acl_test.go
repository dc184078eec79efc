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

// wantNoACLs checks that a file, or a directory and everything below it, has no ACL.
func wantNoACLs(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if have := disks.ACLsOf(t, path); len(have) > 0 {
			t.Errorf("%s has the ACLs %v, want none", path, have)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// poolDirs returns the directories in which a pool makes files.
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
				t.Errorf("the pool's directory has the ACLs %v, want none", have)
			}
		})
	}
}

// The pools of older versions inherited default ACLs, and an administrator may set some.
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
