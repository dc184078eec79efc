package openat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// EntriesBuffer is a good size for the buffer of ReadEntries, in bytes: some hundred names.
const EntriesBuffer = 32 << 10

// Entry is an entry of a directory as getdents64(2) returns it. By the time it is used, the name
// may be gone or lead to something else.
type Entry struct {
	Name string
	// Type is unix.DT_DIR and so on; unix.DT_UNKNOWN where the filesystem does not say.
	Type  uint8
	Inode uint64
	// next is where the directory goes on after the entry: a cookie of the filesystem.
	next int64
}

// The offsets of struct linux_dirent64 (getdents64(2)).
const (
	direntInode  = 0
	direntNext   = 8
	direntLength = 16
	direntType   = 18
	direntName   = 19 // ends with a NUL
)

// parseEntry returns the first entry of what getdents64(2) has returned, and what follows it.
func parseEntry(content []byte) (e Entry, rest []byte) {
	length := binary.NativeEndian.Uint16(content[direntLength:])
	record := content[:length]
	name, _, _ := bytes.Cut(record[direntName:], []byte{0})
	return Entry{
		Name:  string(name),
		Type:  record[direntType],
		Inode: binary.NativeEndian.Uint64(record[direntInode:]),
		//nolint:gosec // the kernel's off_t is signed
		next: int64(binary.NativeEndian.Uint64(record[direntNext:])),
	}, content[length:]
}

// isSelfOrParent reports whether an entry is "." or "..", which are no content.
func (e Entry) isSelfOrParent() bool { return e.Name == "." || e.Name == ".." }

// IsDirectory asks the filesystem if the directory has no types (DT_UNKNOWN of getdents(2)): ext4
// without the feature filetype, XFS without ftype. If that fails, the entry counts as no directory,
// and opening it returns the error.
func (e Entry) IsDirectory(dir int) bool {
	if e.Type != unix.DT_UNKNOWN {
		return e.Type == unix.DT_DIR
	}
	var st unix.Stat_t
	err := unix.Fstatat(dir, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// getdents reads into the buffer; nothing at the end, and when the directory has been removed.
func getdents(dir int, buffer []byte) ([]byte, error) {
	for {
		n, err := unix.Getdents(dir, buffer)
		switch {
		case err == nil:
			return buffer[:n], nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOENT):
			return nil, nil
		default:
			return nil, os.NewSyscallError("getdents64", err)
		}
	}
}

// ReadEntries reads the next entries, without "." and "..", through a buffer; none at the end, and
// when the directory has been removed. (os.File.ReadDir would call stat(2) on an entry of unknown
// type by its path, and a Dir has no path.)
func (d Dir) ReadEntries(buffer []byte) ([]Entry, error) {
	for {
		content, err := getdents(d.FD(), buffer)
		if err != nil || len(content) == 0 {
			return nil, err
		}
		var entries []Entry
		for len(content) > 0 {
			var e Entry
			if e, content = parseEntry(content); !e.isSelfOrParent() {
				entries = append(entries, e)
			}
		}
		if len(entries) > 0 { // "." and ".." alone are not the end
			return entries, nil
		}
	}
}

// EntryReader reads a directory of any size one entry at a time, and can go on after the directory
// was closed and opened again. Its zero value is at the directory's beginning.
type EntryReader struct {
	buffer []byte
	unread []byte
	// position is where the directory goes on after what has been returned.
	position int64
	ended    bool
}

// Next returns the next entry, without "." and "..". Errors: io.EOF at the end, and when the
// directory has been removed.
func (r *EntryReader) Next(dir int) (Entry, error) {
	for {
		if r.ended {
			return Entry{}, io.EOF
		}
		if len(r.unread) == 0 {
			if err := r.fill(dir); err != nil {
				return Entry{}, err
			}
		}
		var e Entry
		e, r.unread = parseEntry(r.unread)
		r.position = e.next
		if !e.isSelfOrParent() {
			return e, nil
		}
	}
}

// NextFiles returns the next entries that are no directories, at most that many. If it comes to a
// directory, it stops and returns its name as well. Errors: those of Next, with the entries before.
func (r *EntryReader) NextFiles(dir, most int) (found []Entry, directory string, err error) {
	for len(found) < most {
		next, err := r.Next(dir)
		if err != nil {
			return found, "", err
		}
		if next.IsDirectory(dir) {
			return found, next.Name, nil
		}
		found = append(found, next)
	}
	return found, "", nil
}

func (r *EntryReader) fill(dir int) (err error) {
	if r.buffer == nil {
		r.buffer = make([]byte, EntriesBuffer)
	}
	r.unread, err = getdents(dir, r.buffer)
	if err == nil && len(r.unread) == 0 {
		err = io.EOF
	}
	return err
}

// Forget frees the buffer. Entries that were read and not returned are read again after Seek.
func (r *EntryReader) Forget() { r.buffer, r.unread = nil, nil }

// End makes Next return io.EOF: the directory that was to be opened again has been removed.
func (r *EntryReader) End() { r.ended = true }

// Seek prepares a descriptor of the same directory, opened again, for Next.
func (r *EntryReader) Seek(dir int) error {
	_, err := unix.Seek(dir, r.position, io.SeekStart)
	return os.NewSyscallError("lseek", err)
}
