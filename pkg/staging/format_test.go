package staging

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// openPool opens a pool in a directory and closes it when the test ends.
func openPool(t *testing.T, dir string) *pool.Pool {
	t.Helper()
	disks.RequireRoot(t)
	p, err := pool.Open(t.Context(), pool.Options{Name: "p", Path: filepath.Join(dir, "pool")})
	fixture.Must(t, err)
	return p
}

func createImage(t *testing.T, p *pool.Pool) volume.ID {
	t.Helper()
	name, err := volume.ParseName("v")
	fixture.Must(t, err)
	v, err := p.Create(t.Context(), volume.CreateRequest{Name: name, Spec: volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Mode:       0o755,
		Backing:    volume.ImageBacking,
		FSType:     volume.Ext4,
		Allocation: volume.Sparse,
	}})
	fixture.Must(t, err)
	return v.ID
}

func find(t *testing.T, p *pool.Pool, id volume.ID) Volume {
	t.Helper()
	v, err := p.Get(id)
	fixture.Must(t, err)
	return Volume{v}
}

// tryBegin begins to make the filesystem of a volume.
func tryBegin(t *testing.T, v Volume) error {
	t.Helper()
	f, err := v.OpenImage()
	fixture.Must(t, err)
	defer f.Close()
	l, err := v.LockUncopied()
	fixture.Must(t, err)
	defer l.Unlock()
	return beginFormat(t.Context(), l, f)
}

func TestFilesystemOnceMadeIsNeverClearedAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	id := createImage(t, p)
	fixture.Must(t, tryBegin(t, find(t, p, id)))
	if v := find(t, p, id); !v.Formatting || v.FilesystemBytes != 0 {
		t.Errorf("after the begin the volume is %+v", v.Volume.Volume)
	}
	fixture.Must(t, find(t, p, id).recordFilesystem(1<<20))
	for range 2 {
		v := find(t, p, id)
		if v.FilesystemBytes != 1<<20 || v.Formatting {
			t.Errorf("with its filesystem the volume is %+v", v.Volume.Volume)
		}
		if err := tryBegin(t, v); !errors.Is(err, volume.ErrInUse) {
			t.Errorf("begin again: %v, want ErrInUse", err)
		}
		fixture.Must(t, p.Close())
		p = openPool(t, dir)
	}
	fixture.Must(t, p.Close())
}
