package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// maxTreeEntry bounds the mode and the name of an entry, in bytes. A name that Linux can have is
// shorter.
const maxTreeEntry = 8 << 10

// treeEntry is an entry of a tree object.
type treeEntry struct {
	name string
	mode filemode.FileMode // Dir, Regular, Executable, Symlink or Submodule
	hash plumbing.Hash
}

// key is what git sorts by: the name of a directory has a slash at its end.
func (e *treeEntry) key() string {
	if e.mode == filemode.Dir {
		return e.name + "/"
	}
	return e.name
}

// treeReader reads a tree object entry by entry: go-git takes all of them into memory. The caller
// closes it.
type treeReader struct {
	from   io.Closer
	buffer *bufio.Reader
}

// openTree errors: plumbing.ErrObjectNotFound, also for an object that is no tree.
func (s *store) openTree(hash plumbing.Hash) (*treeReader, error) {
	o, err := s.EncodedObject(plumbing.TreeObject, hash)
	if err != nil {
		return nil, fmt.Errorf("tree %s: %w", hash, err)
	}
	content, err := o.Reader()
	if err != nil {
		return nil, fmt.Errorf("tree %s: %w", hash, err)
	}
	return newTreeReader(content), nil
}

func newTreeReader(content io.ReadCloser) *treeReader {
	return &treeReader{from: content, buffer: bufio.NewReaderSize(content, maxTreeEntry)}
}

func (t *treeReader) close() { _ = t.from.Close() }

// next returns the next entry: "MODE NAME", a NUL, and a hash. Errors: io.EOF after the last one, a
// fault for what is no tree.
func (t *treeReader) next() (treeEntry, error) {
	digits, err := t.until(' ')
	if err != nil {
		return treeEntry{}, err
	}
	mode, err := strconv.ParseUint(digits, 8, 32)
	if err != nil {
		return treeEntry{}, fault(gitwire.Malformed, "a tree has an entry of mode %.20q", digits)
	}
	name, err := t.until(0)
	if err != nil {
		return treeEntry{}, whole(err)
	}
	e := treeEntry{name: name, mode: modeOf(mode)}
	_, err = io.ReadFull(t.buffer, e.hash[:])
	return e, whole(err)
}

// until returns the text before a delimiter. Errors: io.EOF if nothing is left.
func (t *treeReader) until(delimiter byte) (string, error) {
	text, err := t.buffer.ReadSlice(delimiter)
	switch {
	case err == nil:
		return string(text[:len(text)-1]), nil
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fault(gitwire.Malformed, "a tree has an entry of more than %d bytes", maxTreeEntry)
	case errors.Is(err, io.EOF) && len(text) > 0:
		return "", whole(err)
	default:
		return "", err
	}
}

// whole is the error of a tree that ends within an entry.
func whole(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault(gitwire.Malformed, "a tree ends within an entry")
	}
	return err
}

// modeOf reduces a mode as git does (canon_mode): what it does not know is a submodule.
func modeOf(mode uint64) filemode.FileMode {
	const typeBits, regular, anyExecute = 0o170000, 0o100000, 0o111
	switch mode & typeBits {
	case uint64(filemode.Dir):
		return filemode.Dir
	case uint64(filemode.Symlink):
		return filemode.Symlink
	case regular:
		if mode&anyExecute != 0 {
			return filemode.Executable
		}
		return filemode.Regular
	default:
		return filemode.Submodule
	}
}
