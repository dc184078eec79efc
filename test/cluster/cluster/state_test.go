package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/disk"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/process"
)

func newFolder(t *testing.T) folder {
	t.Helper()
	return folder(filepath.Join(t.TempDir(), "root", "test"))
}

func TestStateIsReadBackAsWritten(t *testing.T) {
	f := newFolder(t)
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		t.Fatal(err)
	}
	want := &state{
		Options: Options{Name: "test", Nodes: 1, KubeletDir: "/srv/kubelet"},
		Ready:   true,
		ControlPlane: machine.Machine{
			Name: "control-plane",
			Init: process.Identity{PID: 42, StartTime: 7},
		},
		Nodes: []nodeState{{Filesystem: disk.XFS}},
	}
	if err := f.write(want); err != nil {
		t.Fatal(err)
	}
	got, err := f.read()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("read %+v, %v, want %+v", got, err, want)
	}
}

func TestNoStateIsNoCluster(t *testing.T) {
	if _, err := newFolder(t).read(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("read = %v, want that it does not exist", err)
	}
}

func TestLockKeepsOthersOut(t *testing.T) {
	f := newFolder(t)
	unlock, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := f.lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second lock: %v, want that it waits", err)
	}
	unlock()
	again, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestLockOfARemovedFolderIsNotTaken(t *testing.T) {
	f := newFolder(t)
	unlock, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(string(f))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := f.remove(); err != nil {
		t.Fatal(err)
	}
	unlock()
	if locked, err := f.tryLock(file); locked || err != nil {
		t.Fatalf("locked a folder that is gone: %t, %v", locked, err)
	}
}

func TestTearDownOfAnInterruptedStartLeavesNothing(t *testing.T) {
	f := newFolder(t)
	unlock, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := os.MkdirAll(f.path("bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.tearDown(t.Context(), t.Logf); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(string(f))); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the folder's parent is still there: %v", err)
	}
}

func TestLastClusterTakesTheSettingsAlong(t *testing.T) {
	first := newFolder(t)
	second := folder(filepath.Join(filepath.Dir(string(first)), "other"))
	for _, f := range []folder{first, second} {
		if err := os.MkdirAll(string(f), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// No setting is named, so that none of this machine's is written.
	if err := os.WriteFile(first.settingsFile(), []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := first.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.settingsFile()); err != nil {
		t.Fatalf("the settings went with the first of two clusters: %v", err)
	}
	if err := second.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(string(first))); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the parent is still there: %v", err)
	}
}
