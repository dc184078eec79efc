package image

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Clear makes all of an image, which may be open with O_PATH only, zeroes again, durably. A sparse
// one gives back its blocks, and a preallocated one keeps them.
func (i Image) Clear(f *os.File) error {
	own, err := openat.Reopen(f, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer own.Close()
	info, err := own.Stat()
	if err != nil {
		return err
	}
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE)
	if i.allocation == volume.Preallocated {
		mode = unix.FALLOC_FL_ZERO_RANGE
	}
	err = unix.Fallocate(int(own.Fd()), mode|unix.FALLOC_FL_KEEP_SIZE, 0, info.Size())
	// tmpfs punches holes and zeroes no range; other filesystems do neither
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = zeroData(own, info.Size())
	}
	return errors.Join(err, own.Sync())
}

// zeroData writes zeroes over what was written to a file of that size. Where the filesystem cannot
// tell data from holes, that is all of the file.
func zeroData(f *os.File, size int64) error {
	for end := int64(0); ; {
		var start int64
		var err error
		if start, end, err = openat.NextData(int(f.Fd()), end, size); err != nil || start == size {
			return err
		}
		if _, err := io.CopyN(io.NewOffsetWriter(f, start), zeroes{}, end-start); err != nil {
			return err
		}
	}
}

// zeroes is an endless reader of zero bytes.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
