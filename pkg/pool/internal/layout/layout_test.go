package layout

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// open opens a pool for the length of the test. A test may close it before.
func open(t *testing.T, opts Options) *Dir {
	t.Helper()
	d, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return d
}

func wantReason(t *testing.T, err error, want volume.Reason) {
	t.Helper()
	if !errors.Is(err, volume.ErrUnavailable) || volume.ReasonOf(err) != want {
		t.Errorf("%v: its reason is %s, want ErrUnavailable and %s", err, volume.ReasonOf(err), want)
	}
}

func TestPoolKeepsItsIDAndIsOpenedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "pool")
	d := open(t, Options{Path: path})
	if id, err := IDAt(path); id != d.ID || err != nil {
		t.Errorf("the ID at the path is %s, %v, want %s", id, err, d.ID)
	}
	_, err := Open(Options{Path: path})
	wantReason(t, err, volume.ReasonInUse)
	_, err = OpenExisting(path)
	wantReason(t, err, volume.ReasonInUse)
	fixture.Must(t, d.Close())
	existing, err := OpenExisting(path)
	fixture.Must(t, err)
	if existing.ID != d.ID {
		t.Errorf("the ID is %s, want %s", existing.ID, d.ID)
	}
	fixture.Must(t, existing.Close())
}

func TestOpenExistingMakesNothing(t *testing.T) {
	path := t.TempDir()
	if _, err := OpenExisting(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want os.ErrNotExist", err)
	}
	if entries, err := os.ReadDir(path); len(entries) > 0 || err != nil {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestPoolThatIsRefusedIsNotChanged(t *testing.T) {
	refused := errors.New("refused")
	path := t.TempDir()
	fixture.Must(t, open(t, Options{Path: path}).Close())
	fixture.Must(t, os.Chmod(path, 0o755))
	_, err := Open(Options{Path: path, Claim: func(volume.PoolID) error { return refused }})
	if !errors.Is(err, refused) {
		t.Errorf("%v, want what Claim has returned", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
}

func TestDirectoryThatIsNoLongerAtItsPathIsDisplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	d := open(t, Options{Path: path})
	fixture.Must(t, d.CheckAtPath())
	fixture.Must(t, os.Rename(path, path+".moved"))
	err := d.CheckAtPath()
	wantReason(t, err, volume.ReasonDisplaced)
	if !strings.Contains(err.Error(), "nothing is there") {
		t.Errorf("%v: it does not say that nothing is there", err)
	}
	fixture.Must(t, os.Mkdir(path, 0o700))
	err = d.CheckAtPath()
	wantReason(t, err, volume.ReasonDisplaced)
	if !strings.Contains(err.Error(), "another directory is there") {
		t.Errorf("%v: it does not say that another directory is there", err)
	}
	_, err = Open(Options{Path: path, WasOpen: true})
	wantReason(t, err, volume.ReasonNotMounted)
	fixture.Must(t, os.Remove(path))
	fixture.Must(t, os.Rename(path+".moved", path))
	fixture.Must(t, d.CheckAtPath())
}
