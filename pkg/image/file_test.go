package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

const mib = 1 << 20

type fixture struct {
	t    *testing.T
	dir  openat.Dir
	path string // of the image
}

func newFixture(t *testing.T, fstype string) *fixture {
	t.Helper()
	dir, err := openat.OpenDir(disks.New(t, fstype, 0).Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return &fixture{t: t, dir: dir, path: filepath.Join(dir.Name(), backend.Data)}
}

func onEach(t *testing.T, test func(*fixture)) {
	t.Helper()
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) { test(newFixture(t, fstype)) })
	}
}

func (w *fixture) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *fixture) make(b image.Image, bytes int64) {
	w.t.Helper()
	f, quotaID, err := b.Make(w.dir, volume.Spec{}, bytes)
	w.must(err)
	w.must(f.Close())
	if quotaID != 0 {
		w.t.Errorf("the quota ID is %d", quotaID)
	}
}

func (w *fixture) stat() unix.Stat_t {
	w.t.Helper()
	var st unix.Stat_t
	w.must(unix.Stat(w.path, &st))
	return st
}

func (w *fixture) allocated() int64 {
	w.t.Helper()
	data, err := backend.OpenData(w.dir, unix.O_PATH)
	w.must(err)
	defer data.Close()
	bytes, err := image.New(volume.Sparse).Allocated(data, 0)
	w.must(err)
	return bytes
}

func (w *fixture) want(bytes int64) {
	w.t.Helper()
	if st := w.stat(); st.Size != bytes || st.Mode != unix.S_IFREG|0o600 {
		w.t.Errorf("the image has %d bytes and mode %#o, want %d", st.Size, st.Mode, bytes)
	}
}

func TestImageHasExactlyItsSizeAndTakesItsBlocksWhenItIsToldTo(t *testing.T) {
	onEach(t, func(w *fixture) {
		w.make(image.New(volume.Sparse), 16*mib)
		w.want(16 * mib)
		if used := w.allocated(); used != 0 {
			w.t.Errorf("a sparse image takes %d bytes", used)
		}
		w.must(os.Remove(w.path))
		w.make(image.New(volume.Preallocated), 16*mib)
		w.want(16 * mib)
		if used := w.allocated(); used < 16*mib {
			w.t.Errorf("a preallocated image takes %d bytes", used)
		}
	})
}

func TestImageThatDoesNotFitLeavesNothing(t *testing.T) {
	onEach(t, func(w *fixture) {
		if _, _, err := image.New(
			volume.Preallocated,
		).Make(
			w.dir,
			volume.Spec{},
			4<<30,
		); !errors.Is(
			err, unix.ENOSPC,
		) {
			w.t.Errorf("got %v, want ENOSPC", err)
		}
		if _, err := os.Lstat(w.path); !errors.Is(err, os.ErrNotExist) {
			w.t.Errorf("the image is there: %v", err)
		}
	})
}

func TestFileThatNoFilesystemHoldsIsOutOfRange(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	if _, _, err := image.New(
		volume.Sparse,
	).Make(
		w.dir,
		volume.Spec{},
		1<<60,
	); !errors.Is(
		err, volume.ErrOutOfRange,
	) {
		t.Errorf("got %v, want ErrOutOfRange", err)
	}
}

func TestImageGrowsAndIsWholeAfterAnExpansionThatFailed(t *testing.T) {
	onEach(t, func(w *fixture) {
		b := image.New(volume.Preallocated)
		w.make(b, mib)
		w.must(os.WriteFile(w.path, []byte("precious"), 0o600))
		w.must(os.Truncate(w.path, mib))
		w.must(b.Resize(w.dir, 0, volume.Spec{}, 2*mib))
		w.want(2 * mib)
		if err := b.Resize(w.dir, 0, volume.Spec{}, 4<<30); !errors.Is(err, unix.ENOSPC) {
			w.t.Errorf("got %v, want ENOSPC", err)
		}
		w.want(2 * mib)
		if used := w.stat().Blocks * 512; used > 3*mib {
			w.t.Errorf("after the expansion that failed it takes %d bytes", used)
		}
		content, err := os.ReadFile(w.path)
		if w.must(err); string(content[:8]) != "precious" {
			w.t.Errorf("it begins with %q", content[:8])
		}
	})
}

func TestExpansionThatACrashCutShortIsTakenBack(t *testing.T) {
	onEach(t, func(w *fixture) {
		for _, allocation := range []volume.Allocation{volume.Sparse, volume.Preallocated} {
			b := image.New(allocation)
			w.make(b, mib)
			w.must(b.Resize(w.dir, 0, volume.Spec{}, 2*mib))
			if repaired, err := b.Adopt(w.dir, 0, volume.Spec{}, mib); !repaired || err != nil {
				w.t.Errorf("%s: repaired %t, %v", allocation, repaired, err)
			}
			w.want(mib)
			if repaired, err := b.Adopt(w.dir, 0, volume.Spec{}, mib); repaired || err != nil {
				w.t.Errorf("%s: again: repaired %t, %v", allocation, repaired, err)
			}
			w.must(os.Remove(w.path))
		}
	})
}

func TestWhatWasWrittenIsNeverCutOff(t *testing.T) {
	onEach(t, func(w *fixture) {
		b := image.New(volume.Sparse)
		w.make(b, 2*mib)
		f, err := os.OpenFile(w.path, os.O_WRONLY, 0)
		w.must(err)
		_, err = f.WriteAt([]byte("precious"), 2*mib-8)
		w.must(err)
		w.must(f.Close())
		if _, err := b.Adopt(w.dir, 0, volume.Spec{}, mib); !errors.Is(err, volume.ErrCorrupt) {
			w.t.Errorf("adopted by a record of half its size: %v, want ErrCorrupt", err)
		}
		if err := b.Resize(w.dir, 0, volume.Spec{}, mib); !errors.Is(err, volume.ErrCorrupt) {
			w.t.Errorf("resized to half its size: %v, want ErrCorrupt", err)
		}
		w.want(2 * mib)
	})
}

func TestImageThatIsShorterThanItsRecordIsCorrupt(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	b := image.New(volume.Sparse)
	w.make(b, mib)
	if _, err := b.Adopt(w.dir, 0, volume.Spec{}, 2*mib); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
	w.want(mib)
}

func TestWhatIsNoFileIsNoImage(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	for _, plant := range []func() error{
		func() error { return os.Mkdir(w.path, 0o700) },
		func() error { return os.Symlink("/etc/passwd", w.path) },
		func() error { return unix.Mkfifo(w.path, 0o600) },
	} {
		w.must(plant())
		if _, err := image.New(volume.Sparse).Adopt(w.dir, 0, volume.Spec{}, 0); err == nil {
			t.Error("it was adopted")
		}
		w.must(os.Remove(w.path))
	}
}
