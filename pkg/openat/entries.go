package openat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// EntriesBuffer is a good size for the buffer of ReadEntries, in bytes.
const EntriesBuffer = 32 << 10

// Entry is an entry of a directory as getdents64(2) returns it.
type Entry struct {
	Name string
	// IsDir is false also where the filesystem does not say what an entry is (DT_UNKNOWN).
	IsDir bool
}

// The layout of struct linux_dirent64.
const (
	direntLength = 16 // d_reclen
	direntType   = 18 // d_type
	direntName   = 19 // d_name, which ends with a NUL
)

// ReadEntries reads the next entries, without "." and "..", through a buffer; none at the end.
// (os.File.ReadDir would call stat(2) on an entry of unknown type by its path, and a Dir has no
// path.)
func (d Dir) ReadEntries(buffer []byte) ([]Entry, error) {
	n, err := d.getdents(buffer)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for rest := buffer[:n]; len(rest) > direntName; {
		length := int(binary.NativeEndian.Uint16(rest[direntLength:]))
		name, _, _ := bytes.Cut(rest[direntName:length], []byte{0})
		if s := string(name); s != "." && s != ".." {
			entries = append(entries, Entry{Name: s, IsDir: rest[direntType] == unix.DT_DIR})
		}
		rest = rest[length:]
	}
	if len(entries) == 0 && n > 0 { // "." and ".." alone are not the end
		return d.ReadEntries(buffer)
	}
	return entries, nil
}

func (d Dir) getdents(buffer []byte) (int, error) {
	for {
		n, err := unix.Getdents(d.FD(), buffer)
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
