package btrfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestSnapshotNeverChangesAndACloneIsAVolume(t *testing.T) {
	b, dir, quotaID := newVolume(t, simple, 32*mib)
	source := backend.Source{Dir: dir, QuotaID: quotaID}
	file := filepath.Join(backend.Data, "file")
	if err := os.WriteFile(filepath.Join(dir.Name(), file), make([]byte, 8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	frozen, cloned := mkdir(t, dir.Name()+"-frozen"), mkdir(t, dir.Name()+"-cloned")
	s, err := b.Snapshot(source, frozen)
	if err != nil {
		t.Fatal(err)
	}
	s.Data.Close()
	c, err := b.Clone(source, cloned, 16*mib)
	if err != nil {
		t.Fatal(err)
	}
	c.Data.Close()
	if s.QuotaID == quotaID || s.QuotaID == c.QuotaID ||
		s.WrittenBytes < 8*mib || s.WrittenBytes > 9*mib {
		t.Errorf("the snapshot is %+v, the clone %+v, of quota ID %d", s, c, quotaID)
	}
	if err := os.WriteFile(filepath.Join(frozen.Name(), file), nil, 0o600); !errors.Is(
		err, unix.EROFS,
	) {
		t.Errorf("a snapshot is written to: %v", err)
	}
	if err := os.WriteFile(
		filepath.Join(cloned.Name(), "data/more"),
		make([]byte, 17*mib),
		0o600,
	); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("17 MiB in a clone of 16 MiB: %v, want EDQUOT", err)
	}
	for d, made := range map[openat.Dir]backend.Clone{frozen: s, cloned: c} {
		if err := b.Discard(d); err != nil {
			t.Error(err)
		}
		wantReleased(t, b, made.QuotaID)
	}
	if err := b.Discard(dir); err != nil {
		t.Error(err)
	}
	wantReleased(t, b, quotaID)
}

// docs/snapshots.md says that these are not in a snapshot. They must not lead out of it either.
func TestSubvolumeOfAPodIsAnEmptyDirectoryInACopy(t *testing.T) {
	b, dir, quotaID := newVolume(t, simple, 32*mib)
	inner := filepath.Join(dir.Name(), backend.Data, "inner")
	subvolume(t, inner)
	if err := os.WriteFile(filepath.Join(inner, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	frozen := mkdir(t, dir.Name()+"-frozen")
	s, err := b.Snapshot(backend.Source{Dir: dir, QuotaID: quotaID}, frozen)
	if err != nil {
		t.Fatal(err)
	}
	s.Data.Close()
	if got, err := os.ReadDir(filepath.Join(frozen.Name(), backend.Data, "inner")); err != nil ||
		len(got) > 0 {
		t.Errorf("the snapshot has %v there, %v, want an empty directory", got, err)
	}
}

func TestFileVolumeIsCopiedWithItsHolder(t *testing.T) {
	b, beside, _ := newVolume(t, simple, 32*mib)
	dir := mkdir(t, beside.Name()+"-file")
	f, quotaID, err := b.Make(dir, volume.Spec{Type: volume.FileOrCreate, Mode: 0o640}, 32*mib)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	cloned := mkdir(t, dir.Name()+"-cloned")
	c, err := b.Clone(backend.Source{Dir: dir, QuotaID: quotaID}, cloned, 32*mib)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Data.Close()
	content := make([]byte, 20)
	n, err := c.Data.Read(content)
	if string(content[:n]) != "content" {
		t.Errorf("the clone is %q, %v", content[:n], err)
	}
}

// If the filesystem cannot clone, the error says so, nothing is left, and the caller copies.
func TestWhatTheFilesystemCannotCloneIsUnsupported(t *testing.T) {
	t.Run("full quotas", func(t *testing.T) {
		b, dir, quotaID := newVolume(t, full, 32*mib)
		waitConsistent(t, b)
		wantUnsupported(t, b, backend.Source{Dir: dir, QuotaID: quotaID})
		if _, inconsistent, err := b.fs.status(); inconsistent || err != nil {
			t.Errorf("the filesystem's numbers are inconsistent: %t, %v", inconsistent, err)
		}
	})
	t.Run("a source on another filesystem", func(t *testing.T) {
		b, _, _ := newVolume(t, simple, 32*mib)
		_, other, quotaID := newVolume(t, simple, 32*mib)
		wantUnsupported(t, b, backend.Source{Dir: other, QuotaID: quotaID})
	})
	t.Run("a source that was copied here", func(t *testing.T) {
		b, beside, _ := newVolume(t, simple, 32*mib)
		dir := mkdir(t, beside.Name()+"-copied")
		mkdir(t, filepath.Join(dir.Name(), backend.Data))
		wantUnsupported(t, b, backend.Source{Dir: dir})
	})
}

func wantUnsupported(t *testing.T, b *Btrfs, source backend.Source) {
	t.Helper()
	dir := mkdir(t, b.fs.root.Name()+"/unsupported")
	if c, err := b.Clone(source, dir, 32*mib); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("clone: %+v, %v, want ErrUnsupported", c, err)
	}
	if c, err := b.Snapshot(source, dir); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("snapshot: %+v, %v, want ErrUnsupported", c, err)
	}
	if left, err := os.ReadDir(dir.Name()); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// waitConsistent waits for the rescan that turning full quotas on has begun.
func waitConsistent(t *testing.T, b *Btrfs) {
	t.Helper()
	fixture.Eventually(t, "the rescan of the new filesystem has ended", func() bool {
		_, inconsistent, err := b.fs.status()
		fixture.Must(t, err)
		return !inconsistent
	})
}
