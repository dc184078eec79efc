package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// descriptorPath names an open file, also one opened with O_PATH, for a call that takes a path.
func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// Clear makes all of an image, which may be open with O_PATH only, zeroes again, durably. A sparse
// one gives back its blocks, and a preallocated one keeps them.
func (i Image) Clear(f *os.File) error {
	own, err := os.OpenFile(descriptorPath(f), os.O_RDWR|unix.O_NONBLOCK, 0)
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
		err = zeroData(own)
	}
	return errors.Join(err, own.Sync())
}

// zeroData writes zeroes over what was written to a file. Where the filesystem does not tell that
// from holes, it is all of the file.
func zeroData(f *os.File) error {
	for end := int64(0); ; {
		start, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // there is none behind it
			return nil
		}
		if err == nil {
			end, err = f.Seek(start, unix.SEEK_HOLE)
		}
		if err == nil {
			_, err = io.CopyN(io.NewOffsetWriter(f, start), zeroes{}, end-start)
		}
		if err != nil {
			return err
		}
	}
}

// zeroes has no end.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
