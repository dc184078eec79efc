// Package copytree copies a tree that somebody else may be changing, and that may be built to harm
// the one who copies it.
//
// Everything is done by descriptor. No link is followed, no mount is entered, nothing is opened but
// directories and regular files, and those only after their type has been seen through a descriptor
// that cannot be exchanged (O_PATH). Whatever a pod does to the names meanwhile, what is copied was
// in the tree.
//
// A copy has the content, mode, owner, times, extended attributes, ACLs, holes and hard links of
// the source. It does not have: what Policy leaves out; what is beneath a mount point; inode flags
// such as immutable and append-only (chattr(1)), which would keep the copy from being deleted;
// labels and signatures of security modules (security.*, but for capabilities), which the node's
// own policy gives to new files; space that was allocated and never written.
//
// The source may change. Each file is read once, from its beginning to the size that it had: what a
// file is after a change in between is somewhere between before and after, as if the machine had
// lost power while pages were written. A reflinked file is its state at one instant. Two files are
// not of the same instant. What appears, disappears or moves meanwhile is copied or not.
package copytree

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Options say how to copy. The zero value copies as fast as it can.
type Options struct {
	// Workers is how many copy at a time; 0 is a number that suits the machine. Each has less than
	// 100 descriptors open.
	Workers int
	// Limiter holds the copy to a number of bytes a second; nil does not. What is reflinked is not
	// counted: it moves no bytes.
	Limiter Limiter
	// Yielder, if set, may hold each worker up between two files, and within a large one.
	Yielder Yielder
	// Progress, if set, can be read while the copy runs.
	Progress *Progress
	// Policy says what of the privileged is copied.
	Policy Policy
	// Durability says what has reached the disk when the copy is done.
	Durability Durability
	// MaxBytes is the most that the copy may take of the disk, as Stats.AllocatedBytes counts; 0 is
	// any number. A pod can write ahead of the copy and free what has been copied, and so make a
	// copy without end of a small tree.
	MaxBytes int64
	// MaxEntries is the most files, directories and others that it may have, the root among them; 0
	// is any number.
	MaxEntries int64
}

// Limiter is what a copy needs of golang.org/x/time/rate.Limiter. It is asked for at most MaxChunk
// bytes at a time: a limiter whose burst is less fails the copy.
type Limiter interface {
	WaitN(ctx context.Context, bytes int) error
}

// Yielder lets others go first: Yield waits for them, not for ever, and says whether there are any,
// or were lately. Its errors fail the copy.
type Yielder interface {
	Yield(ctx context.Context) (others bool, err error)
}

// MaxChunk is how many bytes are copied between two looks at the context and the limiter.
const MaxChunk = 1 << 20

// Policy says what of the privileged is copied. The zero value keeps all that is harmless where
// volumes are always mounted with nosuid and nodev (mount.ParseOptions): a set-ID bit, a capability
// or a socket says nothing there, and a tree that is unpacked elsewhere, a root filesystem for
// instance, is not whole without. Device nodes are left out: they are names of the node's hardware,
// made by mknod(2) of a process that may, on behalf of one that perhaps may not. (The whiteouts of
// overlayfs, of number 0:0, are none.)
type Policy uint8

// The exceptions, which can be joined.
const (
	// KeepDevices makes device nodes as well.
	KeepDevices Policy = 1 << iota
	// DropSetID takes setuid, setgid (but from directories, where it only says who owns new files)
	// and capabilities away.
	DropSetID
	// DropSockets leaves out sockets. Nobody listens on a copied one.
	DropSockets
	// DropTrusted leaves out the extended attributes trusted.*, which only a privileged process can
	// have set, such as overlayfs'.
	DropTrusted
)

func (p Policy) has(q Policy) bool { return p&q != 0 }

// Durability says what has reached the disk.
type Durability int

const (
	// Durable means that the copy survives a power cut as it is, when it is done; only the name of
	// dst itself is its maker's to sync. It is one syncfs(2), whatever the number of files, and it
	// waits for what others have written to that filesystem as well.
	Durable Durability = iota
	// Volatile leaves the syncfs(2) to the caller.
	Volatile
)

// Tree copies a directory's content, or a regular file's, and its own attributes into dst, which
// exists, is empty, of the same kind and nobody else's. Both stay the caller's and open; src may be
// open with O_PATH. When src and dst are on one filesystem that can (XFS with reflinks, btrfs), the
// copy shares the source's blocks; before Linux 5.18 both must have been opened below the same
// mount.
//
// On failure, and when the context ends, dst is left as it is by then, for the caller to remove.
// Errors: unix.ENOSPC and unix.EDQUOT when there is no room; ErrTooLarge; ErrTooDeep; the context's
// cause. A name in an error is a pod's choice, and quoted.
func Tree(ctx context.Context, src, dst *os.File, opts Options) (Stats, error) {
	if opts.Progress == nil {
		opts.Progress = &Progress{}
	}
	if opts.Workers <= 0 {
		opts.Workers = defaultWorkers()
	}
	defer runtime.KeepAlive(src) // an *os.File that nobody refers to is closed
	defer runtime.KeepAlive(dst)
	done := make(chan error)
	go func() {
		back := yieldProcessor()
		err := copyTree(ctx, descriptor(src.Fd()), descriptor(dst.Fd()), opts)
		if err == nil && opts.Durability == Durable {
			err = makeDurable(descriptor(dst.Fd()))
		}
		back()
		done <- err
	}()
	err := <-done
	return opts.Progress.Stats(), err
}

// defaultWorkers is one for each processor, of which the driver has Go see two: see
// cmd/csi-hostpath. More than a few get in each other's way in the filesystem's journal.
func defaultWorkers() int { return min(max(2, runtime.GOMAXPROCS(0)/2), 8) }

func copyTree(ctx context.Context, src, dst descriptor, opts Options) error {
	c, done, err := newCopier(ctx, dst, opts)
	if err != nil {
		return err
	}
	defer done()
	if c.block, err = blockSize(dst); err != nil {
		return err
	}
	if err := c.chargeEntry(); err != nil {
		return err
	}
	from, err := src.attributes()
	if err != nil {
		return err
	}
	to, err := dst.attributes()
	if err != nil {
		return err
	}
	switch kind := from.kind(); {
	case kind != to.kind():
		return fmt.Errorf("copy file type %#o to file type %#o: they have to be the same", kind,
			to.kind())
	case kind == unix.S_IFDIR:
		return c.directory(src, dst)
	case kind == unix.S_IFREG:
		return c.file(src, dst, from)
	default:
		return fmt.Errorf("copy file type %#o: neither a directory nor a regular file", kind)
	}
}

// makeDurable syncs everything that was written to the filesystem of a descriptor, and fails if any
// of it could not be written since the descriptor was opened (Linux 5.8 and later).
func makeDurable(fd descriptor) error {
	if err := unix.Syncfs(int(fd)); err != nil {
		return fmt.Errorf("sync the copy: %w", err)
	}
	return nil
}
