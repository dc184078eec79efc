package layout

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OthersAttribute is an extended attribute of the pool's directory: what others use of its
// filesystem, and the filesystem's size, both in bytes. Where no backend counts the blocks of
// volumes, a start can only guess that from the promises, and would promise more than the process
// before. It is advice: without it, nothing but the guess is lost.
const OthersAttribute = "trusted.csi-hostpath.used-by-others"

// RecallOthers returns what NoteOthers has noted for a filesystem of that size; 0 is nothing. What
// was noted for a filesystem of another size is of no use: the pool was copied.
func (d *Dir) RecallOthers(filesystemBytes int64) (others int64, err error) {
	var text [64]byte
	n, err := unix.Fgetxattr(d.Root.FD(), OthersAttribute, text[:])
	if errors.Is(err, unix.ENODATA) {
		return 0, nil
	}
	if err != nil {
		return 0, os.NewSyscallError("getxattr", err)
	}
	var size int64
	_, err = fmt.Sscan(string(text[:n]), &others, &size)
	if err != nil || size != filesystemBytes {
		return 0, nil //nolint:nilerr // no number of this filesystem
	}
	return others, nil
}

// NoteOthers notes for later processes what others use of a filesystem of that size. The note
// survives the process, and a power cut that comes after the filesystem's next commit. A filesystem
// without such attributes notes nothing.
func (d *Dir) NoteOthers(others, filesystemBytes int64) {
	_ = unix.Fsetxattr(d.Root.FD(), OthersAttribute, fmt.Append(nil, others, filesystemBytes), 0)
}
