package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

const (
	modeDir, modeFile, modeProgram = 0o755, 0o644, 0o755
	// maxDepth bounds the directories above an entry, maxLink a link's target (PATH_MAX of Linux).
	maxDepth = 256
	maxLink  = 4096
)

// entry is an entry of a commit's tree, below the directory that is asked for.
type entry struct {
	path string
	mode filemode.FileMode
	hash plumbing.Hash
	base string // the same file's path in the base; empty: it is not there
}

// tree is what is answered. Its entries are not kept: there may be a million.
type tree struct {
	store  *store
	answer gitwire.Answer
	walker walker
	root   plumbing.Hash
	buffer []byte // for contents
}

func (t *tree) close() { t.store.close() }

// readTree measures a commit's tree, and finds what the base has already.
func readTree(
	ctx context.Context, s *store, commit plumbing.Hash, r gitwire.Request,
) (*tree, error) {
	root, err := s.root(commit, r.SubPath)
	if err != nil {
		return nil, err
	}
	t := &tree{
		store: s, root: root, walker: walker{ctx: ctx, store: s, limit: r.Limits.Entries},
		answer: gitwire.Answer{Version: gitwire.Version, Commit: commit.String()},
	}
	if r.Base != "" {
		// A base that the cache does not have is none.
		if base, err := s.root(plumbing.NewHash(r.Base), r.SubPath); err == nil {
			t.answer.Base = r.Base
			t.walker.base = base
		}
	}
	return t, t.walker.walk(root, func(e entry) error { return t.measure(e, r.Limits) })
}

// measure counts an entry, and refuses it if it cannot be written.
func (t *tree) measure(e entry, limits gitwire.Limits) error {
	if e.mode == filemode.Symlink {
		_, err := t.link(e.hash)
		return err
	}
	if !isRegular(e.mode) || e.base != "" {
		return nil
	}
	size, err := t.store.EncodedObjectSize(e.hash)
	if err != nil {
		return err
	}
	t.answer.Files++
	t.answer.Bytes += size
	if t.answer.Bytes > limits.TreeBytes {
		return fault(gitwire.TooLarge, "the files of commit %s have more than %d bytes, which is the "+
			"size of the volume", t.answer.Commit, limits.TreeBytes)
	}
	return nil
}

// root is the tree of a directory in a commit.
func (s *store) root(commit plumbing.Hash, subPath string) (plumbing.Hash, error) {
	c, err := object.GetCommit(s.Storage, commit)
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("commit %s: %w", commit, err)
	}
	root := c.TreeHash
	for name := range strings.SplitSeq(subPath, "/") {
		if name == "" {
			continue
		}
		if root, err = s.child(root, name); err != nil {
			return root, err
		}
	}
	return root, nil
}

// child is the directory of that name.
func (s *store) child(parent plumbing.Hash, name string) (plumbing.Hash, error) {
	t, err := s.openTree(parent)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	defer t.close()
	for {
		e, err := t.next()
		switch {
		case errors.Is(err, io.EOF):
			return e.hash, fault(gitwire.NotFound, "the commit has no directory %q (subPath)", name)
		case err != nil:
			return e.hash, fmt.Errorf("tree %s: %w", parent, err)
		case e.name == name && e.mode == filemode.Dir:
			return e.hash, nil
		}
	}
}

func isRegular(m filemode.FileMode) bool { return m.IsFile() && m != filemode.Symlink }

// write writes the archive.
func (t *tree) write(to io.Writer) error {
	w := tar.NewWriter(to)
	if err := t.walker.walk(t.root, func(e entry) error { return t.writeEntry(w, e) }); err != nil {
		return err // without the archive's end
	}
	return w.Close()
}

func (t *tree) writeEntry(w *tar.Writer, e entry) error {
	header := &tar.Header{Name: e.path, Mode: modeFile, Format: tar.FormatPAX}
	switch {
	case e.mode == filemode.Dir:
		header.Typeflag, header.Mode, header.Name = tar.TypeDir, modeDir, e.path+"/"
		return w.WriteHeader(header)
	case e.mode == filemode.Symlink:
		target, err := t.link(e.hash)
		if err != nil {
			return err
		}
		header.Typeflag, header.Linkname = tar.TypeSymlink, target
		return w.WriteHeader(header)
	case e.base != "":
		header.Typeflag, header.Linkname = tar.TypeLink, e.base
		return w.WriteHeader(header)
	case e.mode == filemode.Executable:
		header.Mode = modeProgram
	}
	return t.writeFile(w, header, e.hash)
}

func (t *tree) writeFile(w *tar.Writer, header *tar.Header, hash plumbing.Hash) error {
	blob, err := object.GetBlob(t.store.Storage, hash)
	if err != nil {
		return err
	}
	header.Typeflag, header.Size = tar.TypeReg, blob.Size
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	content, err := blob.Reader()
	if err != nil {
		return err
	}
	defer content.Close()
	if t.buffer == nil {
		t.buffer = make([]byte, 64<<10)
	}
	n, err := io.CopyBuffer(w, content, t.buffer)
	if err == nil && n != blob.Size {
		err = fault(gitwire.Malformed, "blob %s has %d bytes, and says %d", hash, n, blob.Size)
	}
	return err
}

// link is a symbolic link's target.
func (t *tree) link(hash plumbing.Hash) (string, error) {
	size, err := t.store.EncodedObjectSize(hash)
	if err != nil {
		return "", err
	}
	if size == 0 || size >= maxLink {
		return "", fault(gitwire.Malformed, "the target of a link has %d bytes", size)
	}
	blob, err := object.GetBlob(t.store.Storage, hash)
	if err != nil {
		return "", err
	}
	content, err := blob.Reader()
	if err != nil {
		return "", err
	}
	defer content.Close()
	target, err := io.ReadAll(io.LimitReader(content, maxLink))
	if bytes.IndexByte(target, 0) >= 0 {
		return "", fault(gitwire.Malformed, "the target of a link has a byte of zero")
	}
	return string(target), err
}
