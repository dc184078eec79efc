package openat

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// skipHole is how far NextData goes on when what was data has become a hole meanwhile.
const skipHole = 1 << 20

// NextData finds the first data of a file between from and size (SEEK_DATA of lseek(2)). It returns
// size twice if there is none. It moves the file's position. The file may be changing. The range is
// empty only at the end of the file, so a loop that continues from end terminates.
func NextData(fd int, from, size int64) (start, end int64, err error) {
	start, err = unix.Seek(fd, from, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && start >= size {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek SEEK_DATA", err)
	}
	end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // the file has become shorter
		return size, size, nil
	}
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek SEEK_HOLE", err)
	}
	if end <= start {
		end = start + skipHole
	}
	return start, min(end, size), nil
}
