package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// Which takes a look at the time between two parts, and is whole.
func TestImageWhoseWritersAreHeldIsReflinkedInParts(t *testing.T) {
	const size = 2*reflinkStep + 3*4096
	for _, fstype := range []string{disks.XFS, disks.Btrfs} {
		t.Run(fstype, func(t *testing.T) {
			dir := disks.New(t, fstype, 0).Dir
			source, data := sparseFile(t, dir, "source", size), sparseFile(t, dir, "data", size)
			pieces := map[int64]string{
				0:               "first",
				reflinkStep - 4: "over the end",
				2 * reflinkStep: "second",
				size - 4:        "last",
			}
			for at, piece := range pieces {
				if _, err := source.WriteAt([]byte(piece), at); err != nil {
					t.Fatal(err)
				}
			}
			held := &quiesced{frozen: source}
			ended, end := context.WithCancelCause(t.Context())
			enough := errors.New("enough")
			end(enough)
			if err := held.reflink(ended, source, data); !errors.Is(err, enough) {
				t.Errorf("after its time: %v, want the cause", err)
			}
			if at, err := data.Seek(0, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
				t.Errorf("after its time something was copied to %d: %v", at, err)
			}
			if err := held.reflink(t.Context(), source, data); err != nil {
				t.Fatal(err)
			}
			for at, piece := range pieces {
				got := make([]byte, len(piece))
				if _, err := data.ReadAt(got, at); string(got) != piece {
					t.Errorf("at %d there is %q, %v, want %q", at, got, err, piece)
				}
			}
			if err := checkCopied(data, size); err != nil {
				t.Error(err)
			}
		})
	}
}

func sparseFile(t *testing.T, dir, name string, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOnlyAFilesystemWithoutReflinksIsCopiedBlockByBlock(t *testing.T) {
	for _, err := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL} {
		if !lacksReflinks(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v fails the copy", err)
		}
	}
	for _, err := range []error{
		unix.ENOSPC, unix.EIO, unix.EDQUOT, unix.EROFS, errors.New("another"),
	} {
		if lacksReflinks(err) {
			t.Errorf("%v is taken for a filesystem without reflinks", err)
		}
	}
}
