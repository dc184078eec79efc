package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
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

// entry is an entry of a tree, below the directory that is asked for.
type entry struct {
	path string
	mode filemode.FileMode
	hash plumbing.Hash
	size int64  // of a regular file
	link string // the target of a link
	base string // the same file's path in the base; empty: it is not there
}

// tree is what is answered.
type tree struct {
	store   *store
	answer  gitwire.Answer
	entries []entry
}

func (t *tree) close() { t.store.close() }

// readTree lists a commit's tree, and finds what the base has already.
func readTree(
	ctx context.Context, s *store, commit plumbing.Hash, r gitwire.Request,
) (*tree, error) {
	t := &tree{store: s, answer: gitwire.Answer{Version: gitwire.Version, Commit: commit.String()}}
	var err error
	if t.entries, err = s.list(ctx, commit, r); err != nil {
		return nil, err
	}
	if r.Base != "" {
		if err := t.compare(ctx, r); err != nil {
			return nil, err
		}
	}
	for i := range t.entries {
		e := &t.entries[i]
		if e.mode == filemode.Symlink {
			if e.link, err = t.link(e.hash); err != nil {
				return nil, fmt.Errorf("%q: %w", e.path, err)
			}
		}
		if !isRegular(e.mode) || e.base != "" {
			continue
		}
		if e.size, err = s.EncodedObjectSize(e.hash); err != nil {
			return nil, fmt.Errorf("%s: %w", e.path, err)
		}
		t.answer.Files++
		t.answer.Bytes += e.size
		if t.answer.Bytes > r.Limits.TreeBytes {
			return nil, fault(gitwire.TooLarge, "the files of commit %s have more than %d bytes, which is "+
				"the size of the volume", commit, r.Limits.TreeBytes)
		}
	}
	return t, nil
}

// compare marks the files that the base has. A base that the cache does not have is none.
func (t *tree) compare(ctx context.Context, r gitwire.Request) error {
	base, err := t.store.list(ctx, plumbing.NewHash(r.Base), r)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil
	}
	if _, refused := errors.AsType[*gitwire.Error](err); refused {
		return nil
	}
	if err != nil {
		return err
	}
	type content struct {
		hash plumbing.Hash
		mode filemode.FileMode
	}
	at := make(map[content]string, len(base))
	for _, e := range base {
		if isRegular(e.mode) {
			at[content{e.hash, e.mode}] = e.path
		}
	}
	t.answer.Base = r.Base
	for i, e := range t.entries {
		t.entries[i].base = at[content{e.hash, e.mode}]
	}
	return nil
}

// list reads the trees of a commit.
func (s *store) list(
	ctx context.Context, commit plumbing.Hash, r gitwire.Request,
) ([]entry, error) {
	c, err := object.GetCommit(s.Storage, commit)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", commit, err)
	}
	root := c.TreeHash
	for name := range strings.SplitSeq(r.SubPath, "/") {
		if name == "" {
			continue
		}
		if root, err = s.child(root, name); err != nil {
			return nil, err
		}
	}
	l := lister{ctx: ctx, store: s, limit: r.Limits.Entries}
	err = l.add(root, "", 0)
	return l.entries, err
}

// child is the directory of that name.
func (s *store) child(parent plumbing.Hash, name string) (plumbing.Hash, error) {
	t, err := object.GetTree(s.Storage, parent)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	for _, e := range t.Entries {
		if e.Name == name && e.Mode == filemode.Dir {
			return e.Hash, nil
		}
	}
	return plumbing.ZeroHash, fault(gitwire.NotFound, "the commit has no directory %q (subPath)", name)
}

type lister struct {
	ctx     context.Context //nolint:containedctx // of one walk
	store   *store
	limit   int64
	entries []entry
}

// add appends what a tree has. The driver refuses the names that it does not want; here only what
// cannot be written as an archive is.
func (l *lister) add(hash plumbing.Hash, dir string, depth int) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fault(gitwire.TooLarge, "%.100q…: more than %d directories deep", dir, maxDepth)
	}
	t, err := object.GetTree(l.store.Storage, hash)
	if err != nil {
		return fmt.Errorf("tree %s: %w", hash, err)
	}
	for _, e := range t.Entries {
		if e.Mode == filemode.Submodule {
			continue // what git has without --recurse-submodules is an empty directory: nothing here
		}
		if int64(len(l.entries)) >= l.limit {
			return fault(gitwire.TooLarge, "the tree has more than %d files and directories, which is the "+
				"limit", l.limit)
		}
		at := path.Join(dir, e.Name)
		if dir != "" && !strings.HasPrefix(at, dir+"/") || strings.Contains(e.Name, "/") ||
			e.Name == "" || e.Name == "." || e.Name == ".." {
			return fault(gitwire.Malformed, "%.100q in %.100q is no name of a file", e.Name, dir)
		}
		l.entries = append(l.entries, entry{path: at, mode: e.Mode, hash: e.Hash})
		if e.Mode != filemode.Dir {
			continue
		}
		if err := l.add(e.Hash, at, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func isRegular(m filemode.FileMode) bool { return m.IsFile() && m != filemode.Symlink }

// write writes the archive.
func (t *tree) write(to io.Writer) error {
	w := tar.NewWriter(to)
	for _, e := range t.entries {
		if err := t.writeEntry(w, e); err != nil {
			return fmt.Errorf("%q: %w", e.path, err)
		}
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
		header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
		return w.WriteHeader(header)
	case e.base != "":
		header.Typeflag, header.Linkname = tar.TypeLink, e.base
		return w.WriteHeader(header)
	case e.mode == filemode.Executable:
		header.Mode = modeProgram
	}
	header.Typeflag, header.Size = tar.TypeReg, e.size
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	blob, err := object.GetBlob(t.store.Storage, e.hash)
	if err != nil {
		return err
	}
	content, err := blob.Reader()
	if err != nil {
		return err
	}
	defer content.Close()
	// One more byte would be an error of the archive's writer, one less an error of the next header.
	_, err = io.Copy(w, bufio.NewReaderSize(content, 64<<10))
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
