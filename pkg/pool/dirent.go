package pool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// direntBuffer is how much of a directory is read at a time, in bytes.
const direntBuffer = 32 << 10

// dirent is an entry of a directory as getdents64(2) has it.
type dirent struct {
	name string
	// isDir is false also where the filesystem does not say what an entry is (DT_UNKNOWN).
	isDir bool
}

// The layout of struct linux_dirent64.
const (
	direntLength = 16 // d_reclen
	direntType   = 18 // d_type
	direntName   = 19 // d_name, which ends with a NUL
)

// readEntries reads the next entries, without "." and "..", through a buffer; none at the end.
// (os.File.ReadDir would stat an entry of unknown type by its path, and the descriptors here have
// none.)
func (d dir) readEntries(buffer []byte) ([]dirent, error) {
	n, err := d.getdents(buffer)
	if err != nil {
		return nil, err
	}
	var entries []dirent
	for rest := buffer[:n]; len(rest) > direntName; {
		length := int(binary.NativeEndian.Uint16(rest[direntLength:]))
		name, _, _ := bytes.Cut(rest[direntName:length], []byte{0})
		if s := string(name); s != "." && s != ".." {
			entries = append(entries, dirent{name: s, isDir: rest[direntType] == unix.DT_DIR})
		}
		rest = rest[length:]
	}
	if len(entries) == 0 && n > 0 { // "." and ".." alone: that is not the end yet
		return d.readEntries(buffer)
	}
	return entries, nil
}

func (d dir) getdents(buffer []byte) (int, error) {
	for {
		n, err := unix.Getdents(d.fd(), buffer)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EINTR):
			continue
		default:
			return 0, os.NewSyscallError("getdents64", err)
		}
	}
}
