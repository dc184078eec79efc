package copytree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// allocated returns what a tree takes of its disk. It counts a file with several names once.
func allocated(t *testing.T, root string) (bytes, entries int64) {
	t.Helper()
	seen := map[uint64]bool{}
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			bytes, entries = bytes+st.Blocks*512, entries+1
		}
		return err
	}))
	return bytes, entries
}

// manyKinds makes a tree of small files, which take more than their sizes, and of large ones, which
// take less.
func (w fixture) manyKinds() {
	w.t.Helper()
	w.mkdir("small")
	for i := range 3000 {
		w.write(fmt.Sprintf("small/%d", i), "x")
	}
	must(w.t, appendTo(w.in("large"), 3*MaxChunk+1))
	must(w.t, os.Truncate(w.in("large"), 1<<40))
	must(w.t, os.Link(w.in("large"), w.in("link")))
	must(w.t, os.Symlink(strings.Repeat("long", 200), w.in("symlink")))
	must(w.t, unix.Mkfifo(w.in("fifo"), 0o600))
}

// next returns the same source with another copy.
func (w fixture) next(name string) fixture {
	w.t.Helper()
	w.dst = filepath.Join(filepath.Dir(w.dst), name)
	must(w.t, os.Mkdir(w.dst, 0o700))
	return w
}

func TestAllocatedBytesAreWhatTheCopyTakesOfTheDisk(t *testing.T) {
	onEach(t, func(t *testing.T, w fixture) { //nolint:thelper // it is the test
		w.manyKinds()
		stats := w.copy(Options{})
		want, entries := allocated(t, w.dst)
		if stats.AllocatedBytes != want {
			t.Errorf("%d bytes were counted, %d are allocated", stats.AllocatedBytes, want)
		}
		if got := 1 + stats.Files + stats.Directories + stats.Others; got != entries {
			t.Errorf("%d entries were counted, the copy has %d", got, entries)
		}
	})
}

// What fits exactly is copied. With one more, it is not.
func TestCopyIsHeldToItsBound(t *testing.T) {
	onEach(t, func(t *testing.T, w fixture) { //nolint:thelper // it is the test
		w.manyKinds()
		w.copy(Options{}) // after this XFS has freed what it had preallocated for the source
		whole := w.next("whole").copy(Options{Workers: 1})
		bytes, entries := whole.AllocatedBytes, 1+whole.Files+whole.Directories+whole.Others
		for _, c := range []struct {
			name    string
			opts    Options
			wantErr error
		}{
			{"as many bytes", Options{MaxBytes: bytes}, nil},
			{"as many entries", Options{MaxEntries: entries}, nil},
			{"a byte less", Options{MaxBytes: bytes - 1}, ErrTooLarge},
			{"an entry less", Options{MaxEntries: entries - 1}, ErrTooLarge},
		} {
			// With several workers a directory is split elsewhere, and may be larger or smaller.
			c.opts.Workers = 1
			if _, err := w.next(c.name).try(t.Context(), c.opts); !errors.Is(err, c.wantErr) {
				t.Errorf("%s: %v, want %v", c.name, err, c.wantErr)
			}
		}
	})
}

// treadmill is a pod that writes one chunk ahead of the copy and frees the chunks behind it: its
// file never has more than two chunks, and never ends.
type treadmill struct {
	t    *testing.T
	file *os.File
	next int64
}

func (m *treadmill) WaitN(ctx context.Context, _ int) error {
	_, err := m.file.WriteAt(pattern(MaxChunk), m.next)
	if behind := m.next - 2*MaxChunk; err == nil && behind >= 0 {
		err = unix.Fallocate(int(m.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, behind,
			MaxChunk)
	}
	must(m.t, err)
	m.next += MaxChunk
	return ctx.Err()
}

func TestPodThatWritesAheadOfACopyDoesNotMakeItGrowBeyondItsBound(t *testing.T) {
	const size, bound = 128 * MaxChunk, 16 * MaxChunk
	w := elsewhere(t)
	must(t, appendTo(w.in("file"), MaxChunk))
	must(t, os.Truncate(w.in("file"), size))
	f, err := os.OpenFile(w.in("file"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	pod := &treadmill{t: t, file: f, next: MaxChunk}
	if _, err := w.try(t.Context(), Options{Workers: 1, Limiter: pod, MaxBytes: bound}); !errors.Is(
		err, ErrTooLarge,
	) {
		t.Errorf("%v, want ErrTooLarge", err)
	}
	if took, _ := allocated(t, w.src); took > 4*MaxChunk {
		t.Errorf("the pod had %d bytes: it has not freed any", took)
	}
	if pod.next < bound/2 {
		t.Errorf("the copy stopped at %d bytes already", pod.next)
	}
}

// The names in a directory take space as well, and are counted while the directory grows.
func TestDirectoryOfManyNamesIsHeldToTheBoundWhileItIsCopied(t *testing.T) {
	onEach(t, func(t *testing.T, w fixture) { //nolint:thelper // it is the test
		const names = 6 * batch
		for i := range names {
			w.write(fmt.Sprintf("a-name-that-takes-some-room-%d", i), "")
		}
		whole := w.copy(Options{})
		if whole.AllocatedBytes == 0 {
			return // btrfs says of no directory what it takes
		}
		w = w.next("bounded")
		if _, err := w.try(t.Context(), Options{MaxBytes: whole.AllocatedBytes / 4}); !errors.Is(
			err, ErrTooLarge,
		) {
			t.Errorf("%v, want ErrTooLarge", err)
		}
		if _, made := allocated(t, w.dst); made > names/2 {
			t.Errorf("%d of %d names had been made by then", made, names)
		}
	})
}
