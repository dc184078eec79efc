package gittree

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxHeader bounds the bytes between two contents: what is left of a block, a header, a path and a
	// link's target. (archive/tar alone takes 1 MiB of each kind into memory.)
	maxHeader = 32 << 10
	// archiveBuffer is as much as a unix socket holds.
	archiveBuffer = 256 << 10

	modeDir     = 0o755
	modeFile    = 0o644
	modeProgram = 0o755
)

// kind is what an entry of an archive is.
type kind byte

const (
	directory kind = iota
	file
	link     // a symbolic link
	baseFile // a regular file of the base
)

// entry is an entry of an archive that has passed the checks that need no tree.
type entry struct {
	kind kind
	dir  string // the path of its directory; empty: the root
	name string
	// target is that of a symbolic link, or the path of a file of the base.
	target string
	size   int64  // of a file, in bytes
	mode   uint32 // of a file
}

func (e *entry) path() string { return join(e.dir, e.name) }

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// splitPath splits the path of an entry into that of its directory and its name.
func splitPath(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// archive reads the entries of an archive, and checks what it is to be by pkg/gitwire.
type archive struct {
	tar  *tar.Reader
	left *bounded
	// dir is the last directory whose path was checked.
	dir string
}

func newArchive(r io.Reader) *archive {
	left := &bounded{r: bufio.NewReaderSize(r, archiveBuffer)}
	return &archive{tar: tar.NewReader(left), left: left}
}

// bounded ends with an error after as many bytes as the reader may still use. A stream that ends
// before tar has read its last block is an error: archive/tar takes it for the end of the archive.
type bounded struct {
	r    io.Reader
	left int64
}

var errHeader = errors.New("a header of more than 32 KiB: want a path and a target of 4095 bytes each")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errHeader
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next returns the next entry. Its content is read from a.tar. Errors: io.EOF at the end of the
// archive, and not of the stream.
func (a *archive) next() (*entry, error) {
	a.left.left = maxHeader
	header, err := a.tar.Next()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, err
	case errors.Is(err, tar.ErrHeader), errors.Is(err, errHeader):
		return nil, fmt.Errorf("%w: the archive is damaged: %w", volume.ErrPrecondition, err)
	case err != nil:
		return nil, err
	}
	e, err := a.check(header)
	if err != nil {
		return nil, refused(header.Name, err)
	}
	a.left.left += e.size
	return e, nil
}

// refused is the error for an entry that may not be in an archive.
func refused(path string, err error) error {
	return fmt.Errorf("%w: the tree has at %s %w", volume.ErrPrecondition, quote(path), err)
}

var (
	errType   = errors.New("an entry that is no file, directory or link: want none of another type")
	errFormat = errors.New("a header in another format: want POSIX.1-2001 pax, with path, linkpath, " +
		"size and mtime only")
	errMode = errors.New("a mode other than 0644 and 0755")
	errSize = errors.New("an entry with content that is no file, or a negative size")
)

func (a *archive) check(h *tar.Header) (*entry, error) {
	if err := checkFormat(h); err != nil {
		return nil, err
	}
	e := &entry{size: h.Size}
	path := h.Name
	switch h.Typeflag {
	case tar.TypeDir:
		e.kind = directory
		path = strings.TrimSuffix(path, "/")
	case tar.TypeReg:
		e.kind = file
		e.mode = uint32(h.Mode) //nolint:gosec // compared below
		if h.Mode != modeFile && h.Mode != modeProgram {
			return nil, errMode
		}
	case tar.TypeSymlink:
		e.kind, e.target = link, h.Linkname
	case tar.TypeLink:
		e.kind, e.target = baseFile, h.Linkname
	default:
		return nil, errType
	}
	if e.size < 0 || e.size > 0 && e.kind != file {
		return nil, errSize
	}
	e.dir, e.name = splitPath(path)
	return e, a.checkPaths(e, path)
}

// checkFormat refuses what archive/tar understands and no fetcher sends: sparse files, whose size
// has nothing to do with that of the archive, and headers of GNU and others.
func checkFormat(h *tar.Header) error {
	if h.Format != tar.FormatUSTAR && h.Format != tar.FormatPAX {
		return errFormat
	}
	for key := range h.PAXRecords {
		switch key {
		case "path", "linkpath", "size", "mtime":
		default:
			return errFormat
		}
	}
	return nil
}

func (a *archive) checkPaths(e *entry, path string) error {
	if len(path) > maxPath {
		return errLong
	}
	if path != "" && path[0] == '/' { // else the directory would seem to be the root
		return errName
	}
	if e.dir != a.dir {
		if err := checkDir(e.dir); err != nil {
			return err
		}
		a.dir = e.dir
	}
	if err := checkName(e.name); err != nil {
		return err
	}
	switch e.kind {
	case link:
		return checkTarget(e.target, depthOf(e.dir))
	case baseFile:
		return checkDir(e.target)
	default:
		return nil
	}
}

// depthOf is how many directories a path has.
func depthOf(dir string) int {
	if dir == "" {
		return 0
	}
	return 1 + strings.Count(dir, "/")
}
