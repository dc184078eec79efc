package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// maxMoved is the most files of a base that are kept in memory, to find those that were moved.
const maxMoved = 100_000

// walker visits the entries of a tree, a directory before what is in it. It keeps none of them: its
// memory does not grow with the tree. It compares the tree with that of the base as it goes.
type walker struct {
	ctx   context.Context //nolint:containedctx // of one request
	store *store
	limit int64         // of entries
	base  plumbing.Hash // the base's tree; zero: there is none

	visit func(entry) error
	count int64
	moved map[content]string
}

// content is what a file has in common with one of the base.
type content struct {
	hash plumbing.Hash
	mode filemode.FileMode
}

// walk errors: those of visit, with the path, and faults for trees that are too large or malformed.
func (w *walker) walk(root plumbing.Hash, visit func(entry) error) error {
	w.visit, w.count = visit, 0
	return w.directory(root, w.base, "", 0)
}

// directory visits the entries of a tree. old is the tree at the same path of the base, or zero.
func (w *walker) directory(hash, old plumbing.Hash, dir string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fault(gitwire.TooLarge, "%.100q…: more than %d directories deep", dir, maxDepth)
	}
	t, err := w.store.openTree(hash)
	if err != nil {
		return err
	}
	defer t.close()
	base := w.openBase(old, hash)
	defer base.close()
	for {
		e, err := t.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tree %s: %w", hash, err)
		}
		if err := w.entry(e, base.find(e), dir, depth); err != nil {
			return err
		}
	}
}

// entry visits an entry, and what is in it. old is the entry of the same name in the base. Refused
// are the names that an archive cannot have. The driver refuses those that it does not want.
func (w *walker) entry(e, old treeEntry, dir string, depth int) error {
	if e.mode == filemode.Submodule {
		return nil // what git has without --recurse-submodules is an empty directory: nothing here
	}
	if w.count++; w.count > w.limit {
		return fault(gitwire.TooLarge, "the tree has more than %d files and directories, which is the "+
			"limit", w.limit)
	}
	if strings.Contains(e.name, "/") || e.name == "" || e.name == "." || e.name == ".." {
		return fault(gitwire.Malformed, "%.100q in %.100q is no name of a file", e.name, dir)
	}
	visited := entry{path: e.name, mode: e.mode, hash: e.hash}
	if dir != "" {
		visited.path = dir + "/" + e.name
	}
	if isRegular(e.mode) && w.base != plumbing.ZeroHash {
		visited.base = w.inBase(visited, old)
	}
	if err := w.visit(visited); err != nil {
		return fmt.Errorf("%.200q: %w", visited.path, err)
	}
	if e.mode != filemode.Dir {
		return nil
	}
	return w.directory(e.hash, old.hash, visited.path, depth+1)
}

// inBase is the path of a file of the base with the same content and mode.
func (w *walker) inBase(e entry, old treeEntry) string {
	if old.hash == e.hash && old.mode == e.mode {
		return e.path
	}
	if w.moved == nil {
		w.moved = w.filesOfBase()
	}
	return w.moved[content{e.hash, e.mode}]
}

// filesOfBase is empty if there are more than are kept, or if the cache has not all trees of the
// base: then files that were moved are sent again.
func (w *walker) filesOfBase() map[content]string {
	files := map[content]string{}
	base := walker{ctx: w.ctx, store: w.store, limit: maxMoved}
	err := base.walk(w.base, func(e entry) error {
		if isRegular(e.mode) {
			files[content{e.hash, e.mode}] = e.path
		}
		return nil
	})
	if err != nil {
		clear(files)
	}
	return files
}

// baseReader reads a tree of the base beside one of the commit. Both are sorted. If one is not,
// entries are not found.
type baseReader struct {
	isSame bool        // it is the commit's tree
	tree   *treeReader // nil: there is none, or no more of it
	last   treeEntry
}

// openBase: a tree that cannot be read is none.
func (w *walker) openBase(old, hash plumbing.Hash) *baseReader {
	if old == plumbing.ZeroHash || old == hash {
		return &baseReader{isSame: old == hash}
	}
	t, err := w.store.openTree(old)
	if err != nil {
		return &baseReader{}
	}
	return &baseReader{tree: t}
}

func (b *baseReader) close() {
	if b.tree != nil {
		b.tree.close()
	}
}

// find returns the entry of the same name and type, or none.
func (b *baseReader) find(e treeEntry) treeEntry {
	if b.isSame {
		return e
	}
	for b.tree != nil && b.last.key() < e.key() {
		var err error
		if b.last, err = b.tree.next(); err != nil {
			b.tree.close()
			b.tree, b.last = nil, treeEntry{}
		}
	}
	if b.last.name != e.name || b.last.key() != e.key() {
		return treeEntry{}
	}
	return b.last
}
