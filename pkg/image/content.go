package image

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// Content is what an image is found to hold, whatever its volume's record says.
type Content struct {
	filesystem.Found

	// ImageBytes is the size of the image.
	ImageBytes int64
	// DataOffset is where the first byte is that is not zero; -1 if there is none.
	DataOffset int64
}

// IsBlank says whether the image holds nothing but zeroes.
func (c Content) IsBlank() bool { return c.DataOffset < 0 }

// String says it for an error.
func (c Content) String() string {
	switch {
	case c.IsBlank():
		return fmt.Sprintf("image of %d bytes, all of them zero", c.ImageBytes)
	case c.Type == "":
		return fmt.Sprintf("image of %d bytes, with no known filesystem, and with data at byte %d",
			c.ImageBytes, c.DataOffset)
	case c.Bytes == 0:
		return fmt.Sprintf("image of %d bytes, with %s", c.ImageBytes, c.Type)
	default:
		return fmt.Sprintf("image of %d bytes, with %s of %d bytes", c.ImageBytes, c.Type, c.Bytes)
	}
}

// Inspect reads an image, which may be open with O_PATH only, up to its first byte that is not
// zero, and skips holes. Where the filesystem reports no holes, it may read the whole image.
// Errors: volume.ErrNode when blkid is missing; the context's.
func Inspect(ctx context.Context, image *os.File) (Content, error) {
	f, err := openat.Reopen(image, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return Content{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Content{}, err
	}
	c := Content{ImageBytes: info.Size()}
	if c.DataOffset, err = firstData(ctx, f, info.Size()); err != nil || c.IsBlank() {
		return c, err
	}
	c.Found, err = filesystem.Probe(f)
	return c, err
}

// firstData is the offset of the first byte that is not zero; -1 if there is none.
func firstData(ctx context.Context, f *os.File, size int64) (int64, error) {
	buffer := make([]byte, 1<<20)
	for end := int64(0); ; {
		start, next, err := openat.NextData(int(f.Fd()), end, size)
		if err != nil || start == size {
			return -1, err
		}
		end = next
		for at := start; at < end; {
			if err := ctx.Err(); err != nil {
				return -1, err
			}
			n, err := f.ReadAt(buffer[:min(int64(len(buffer)), end-at)], at)
			if zeroes := n - len(bytes.TrimLeft(buffer[:n], "\x00")); zeroes < n {
				return at + int64(zeroes), nil
			}
			if err != nil {
				return -1, err
			}
			at += int64(n)
		}
	}
}
