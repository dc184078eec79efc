package gittree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Replace writes the tree of a commit from an archive, as pkg/gitwire describes it, and shows it to
// pods instead of the last one. base is the commit whose files the archive links to; empty: none.
// When Replace returns nil, the tree is durable. After an error pods see the tree that Commit
// names, which is nearly always the last one, and nothing remains of the new one. After a crash or
// a power cut they see one of the two, whole.
//
// Replace ends when the context does, but it does not interrupt a read of the archive: whoever
// ends the context closes the connection, too. It does not read what follows the archive's end.
//
// Errors: volume.ErrPrecondition for a tree that is refused, also with ErrBase, volume.ErrNoSpace
// for one that does not fit into the limits or the volume, volume.ErrTooMany for too many entries,
// volume.ErrBusy if another Replace is under way, io.ErrUnexpectedEOF for an archive without its
// end.
func (c *Content) Replace(
	ctx context.Context, commit, base string, limits gitwire.Limits, archive io.Reader,
) error {
	if !c.replacing.TryLock() {
		return fmt.Errorf("%w: another tree of %q is being written", volume.ErrBusy, c.name)
	}
	defer c.replacing.Unlock()
	if err := c.checkCommits(commit, base); err != nil {
		return err
	}
	if err := c.RemoveOld(ctx, time.Now()); err != nil {
		return err
	}
	if err := c.replace(ctx, commit, base, limits, archive); err != nil {
		return fmt.Errorf("tree of commit %s: %w", commit, outOfSpace(err))
	}
	return nil
}

func (c *Content) checkCommits(commit, base string) error {
	if !isCommit(commit) {
		return fmt.Errorf("%w: %s is not a commit: want %d hexadecimal digits", volume.ErrPrecondition,
			quote(commit), commitDigits)
	}
	if current := c.Commit(); base != "" && base != current {
		return fmt.Errorf("%w: the archive is based on commit %s: want %q, which the volume has",
			volume.ErrPrecondition, quote(base), current)
	}
	return nil
}

// outOfSpace adds volume.ErrNoSpace to an error of a full filesystem or quota.
func outOfSpace(err error) error {
	if !isOutOfSpace(err) {
		return err
	}
	return fmt.Errorf("%w: the volume, or its pool's disk, has no room for it beside the tree that it "+
		"replaces, of which it shares the unchanged files: give the volume a larger size, or ask for a "+
		"part of the repository (subPath): %w", volume.ErrNoSpace, err)
}

func isOutOfSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func (c *Content) replace(
	ctx context.Context, commit, base string, limits gitwire.Limits, archive io.Reader,
) error {
	name := fmt.Sprintf("%s%016x", newPrefix, rand.Uint64()) //nolint:gosec // not a secret
	err := c.build(ctx, name, commit, base, limits, archive)
	if err == nil {
		err = c.exchange(name)
	}
	if err != nil {
		return errors.Join(err, c.removeTree(context.WithoutCancel(ctx), name))
	}
	failpoint.Here("git.exchanged")
	return c.finish(ctx, name, commit)
}

// build makes a durable tree, and the files that are to lie beside it.
func (c *Content) build(
	ctx context.Context, name, commit, base string, limits gitwire.Limits, archive io.Reader,
) error {
	if err := unix.Mkdirat(c.building.FD(), name, modeDir); err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	root, err := c.building.OpenDir(name)
	if err != nil {
		return err
	}
	defer root.Close()
	failpoint.Here("git.made")
	if err := c.fill(ctx, root, base, limits, archive); err != nil {
		return err
	}
	failpoint.Here("git.filled")
	err = unix.Fsetxattr(root.FD(), commitAttribute, []byte(commit), 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return noAttributes()
	}
	if err != nil {
		return &os.PathError{Op: "set " + commitAttribute, Path: name, Err: err}
	}
	for _, file := range c.describing() {
		if err := c.writeAside(file, commit); err != nil {
			return err
		}
	}
	failpoint.Here("git.written")
	// One syncfs(2) for all files. It also writes what others have written to the filesystem.
	if err := unix.Syncfs(root.FD()); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	failpoint.Here("git.synced")
	return ctx.Err()
}

// fill writes the archive's entries into a directory.
func (c *Content) fill(
	ctx context.Context, root openat.Dir, base string, limits gitwire.Limits, archive io.Reader,
) error {
	var from *openat.Dir
	if base != "" {
		current, err := c.content.OpenUnmounted(c.name)
		if err != nil {
			return err
		}
		defer current.Close()
		from = &current
	}
	t, err := newTree(root, from, limits, archive)
	if err != nil {
		return err
	}
	defer t.close()
	return underQuota(func() error { return t.write(ctx) })
}

// exchange shows the new tree to pods. The old one gets the new one's name.
func (c *Content) exchange(name string) error {
	err := c.building.Exchange(name, c.content, c.name)
	if errors.Is(err, unix.ENOENT) {
		err = c.building.RenameNoReplace(name, c.content, c.name)
	}
	return err
}

// finish does what follows an exchange. If it fails, RemoveOld or Open does the rest.
func (c *Content) finish(ctx context.Context, name, commit string) error {
	c.mu.Lock()
	c.commit, c.described = commit, false
	c.mu.Unlock()
	if err := c.demote(name, time.Now()); err != nil {
		// The old tree loses its grace, not to be in the way.
		if err := errors.Join(err, c.removeTree(context.WithoutCancel(ctx), name)); err != nil {
			return err
		}
	}
	failpoint.Here("git.demoted")
	for _, file := range c.describing() {
		if err := c.putInPlace(file); err != nil {
			return err
		}
		failpoint.Here("git.described")
	}
	c.mu.Lock()
	c.described = true
	c.mu.Unlock()
	return errors.Join(c.content.Sync(), c.building.Sync())
}
