package copytree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// entriesBuffer is how much of a directory is known at a time: some hundred names.
const entriesBuffer = 32 << 10

// entries reads a directory, of any size, a little at a time.
type entries struct {
	buffer []byte
	unread []byte
	// position is where the directory goes on after what has been returned: a cookie of the
	// filesystem's.
	position int64
}

// entry is a name, and what the directory says of it, which may be nothing and may be wrong by now.
type entry struct {
	name  string
	kind  uint8 // unix.DT_DIR, …
	inode uint64
}

// next returns io.EOF at the end, and when the directory has been removed.
func (e *entries) next(dir descriptor) (entry, error) {
	for {
		if len(e.unread) == 0 {
			if err := e.fill(dir); err != nil {
				return entry{}, err
			}
		}
		if found := e.take(); found.name != "." && found.name != ".." {
			return found, nil
		}
	}
}

func (e *entries) fill(dir descriptor) error {
	if e.buffer == nil {
		e.buffer = make([]byte, entriesBuffer)
	}
	for {
		n, err := unix.Getdents(int(dir), e.buffer)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case n == 0 && err == nil, errors.Is(err, unix.ENOENT):
			return io.EOF
		case err != nil:
			return os.NewSyscallError("getdents64", err)
		}
		e.unread = e.buffer[:n]
		return nil
	}
}

// The offsets of struct linux_dirent64 (getdents(2)): ino, off, reclen, type, name.
const (
	direntIno    = 0
	direntOff    = 8
	direntReclen = 16
	direntType   = 18
	direntName   = 19
)

func (e *entries) take() entry {
	length := binary.NativeEndian.Uint16(e.unread[direntReclen:])
	record := e.unread[:length]
	e.unread = e.unread[length:]
	e.position = int64(
		binary.NativeEndian.Uint64(record[direntOff:]),
	) //nolint:gosec // the kernel's off is signed
	name, _, _ := bytes.Cut(record[direntName:], []byte{0})
	return entry{
		name:  string(name),
		kind:  record[direntType],
		inode: binary.NativeEndian.Uint64(record[direntIno:]),
	}
}

// forget drops what was read and not returned; seek on the directory, opened again, brings it back.
func (e *entries) forget() { e.buffer, e.unread = nil, nil }

func (e *entries) seek(dir descriptor) error {
	_, err := unix.Seek(int(dir), e.position, io.SeekStart)
	return os.NewSyscallError("lseek", err)
}
