// Package copytree copies a directory tree that a hostile pod may be changing.
//
// Every step is made on a descriptor. No link is followed and no mount is crossed. Only directories
// and regular files are opened for reading, and only after their type was read from an O_PATH
// descriptor, which cannot be exchanged. So everything that is copied was in the tree, whatever a
// pod does to the names meanwhile.
//
// A copy has the content, mode, owner, times, extended attributes, ACLs, holes and hard links of
// the source. It does not have:
//
//   - what Policy excludes;
//   - what is below a mount point;
//   - inode flags such as immutable and append-only (chattr(1)), with which the copy could not be
//     deleted;
//   - labels and signatures of security modules (security.*, except capabilities), which the node's
//     own policy gives to new files;
//   - space that was allocated and never written.
//
// The source may change. Each file is read once, from its beginning to the size that it had. If a
// file changes meanwhile, its copy is a mixture of old and new content, as after a power cut. A
// reflinked file shows one moment. Two files show different moments. An entry that appears,
// disappears or moves meanwhile may be copied or not.
package copytree

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/workers"
)

// Options say how to copy. The zero value copies as fast as possible.
type Options struct {
	// Workers is the number of workers; 0 means a number that suits the machine. Each has fewer than
	// 100 descriptors open.
	Workers int
	// Limiter limits the copied bytes per second; nil means no limit. Reflinked bytes do not count,
	// because they are not moved.
	Limiter Limiter
	// Yielder, if set, may delay each worker between two files, and within a large file.
	Yielder Yielder
	// Progress, if set, can be read while the copy runs.
	Progress *Progress
	// Policy says which privileged properties are copied.
	Policy Policy
	// Durability says what has reached the disk when the copy is done.
	Durability Durability
	// MaxBytes is the most that the copy may take of the disk, as Stats.AllocatedBytes counts; 0
	// means no limit. Without a limit a pod can make the copy of a small tree endless: it writes
	// ahead of the copy, and frees what has been copied.
	MaxBytes int64
	// MaxEntries is the most files, directories and others that the copy may have, the root among
	// them; 0 means no limit.
	MaxEntries int64
}

// Limiter is what a copy needs of golang.org/x/time/rate.Limiter. WaitN is called with at most
// MaxChunk bytes: a limiter with a smaller burst fails the copy.
type Limiter interface {
	WaitN(ctx context.Context, bytes int) error
}

// Yielder lets other work go first. Its errors fail the copy.
type Yielder = workers.Yielder

// MaxChunk is the most bytes that are copied before the context and the limiter are asked again.
const MaxChunk = 1 << 20

// Policy says which privileged properties are copied. The zero value copies those that a pod gives
// to files of its own: set-ID bits, capabilities and sockets have no effect on the node, where
// volumes are nosuid (mount.ParseOptions), and in a container the same one as in the source. A tree
// that is used elsewhere, such as a root filesystem, needs them. Device nodes are excluded: they
// give access to the node's hardware, and the privileged driver would make them for a pod that
// perhaps may not. (Whiteouts of overlayfs, which have the number 0:0, are not device nodes.)
type Policy uint8

// The exceptions, which can be combined.
const (
	// KeepDevices makes device nodes as well.
	KeepDevices Policy = 1 << iota
	// DropSetID drops setuid, setgid and capabilities. Directories keep setgid: there it only says
	// which group owns new files.
	DropSetID
	// DropSockets excludes sockets. Nobody listens on a copied one.
	DropSockets
	// DropTrusted excludes the extended attributes trusted.*, which only a privileged process can
	// set, such as those of overlayfs.
	DropTrusted
)

func (p Policy) has(q Policy) bool { return p&q != 0 }

// Durability says what has reached the disk when a copy is done.
type Durability int

const (
	// Durable means that the copy survives a power cut. Only the name of dst itself is for the caller
	// to sync. It costs one syncfs(2), whatever the number of files, which also waits for what others
	// have written to that filesystem.
	Durable Durability = iota
	// Volatile leaves the syncfs(2) to the caller.
	Volatile
)

// Tree copies the content and the attributes of src, a directory or a regular file, to dst. dst
// exists, has the same type, is empty, and nobody else uses it. The caller closes both; src may be
// an O_PATH descriptor. If src and dst are on one filesystem with reflinks (XFS, btrfs), the copy
// shares the source's blocks; before Linux 5.18 both must have been opened below the same mount.
//
// If Tree fails, or the context ends, dst is incomplete: the caller removes it. Errors: unix.ENOSPC
// and unix.EDQUOT when there is no room; ErrTooLarge; ErrTooDeep; the context's cause. Names in
// errors are quoted, because a pod has chosen them.
func Tree(ctx context.Context, src, dst *os.File, opts Options) (Stats, error) {
	if opts.Progress == nil {
		opts.Progress = &Progress{}
	}
	if opts.Workers <= 0 {
		opts.Workers = workers.Default()
	}
	defer runtime.KeepAlive(src) // the garbage collector closes an *os.File that is not in use
	defer runtime.KeepAlive(dst)
	done := make(chan error)
	go func() {
		restore := workers.LowerPriority()
		err := copyTree(ctx, descriptor(src.Fd()), descriptor(dst.Fd()), opts)
		if err == nil && opts.Durability == Durable {
			err = makeDurable(descriptor(dst.Fd()))
		}
		restore()
		done <- err
	}()
	err := <-done
	return opts.Progress.Stats(), err
}

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
	switch fileType := from.fileType(); {
	case fileType != to.fileType():
		return fmt.Errorf("copy file type %#o to file type %#o: they have to be the same",
			fileType, to.fileType())
	case fileType == unix.S_IFDIR:
		return c.directory(src, dst) //nolint:contextcheck // the workers have it
	case fileType == unix.S_IFREG:
		return c.file(src, dst, from) //nolint:contextcheck // the workers have it
	default:
		return fmt.Errorf("copy file type %#o: neither a directory nor a regular file", fileType)
	}
}

// makeDurable syncs the filesystem of a descriptor. It fails if anything could not be written since
// the descriptor was opened.
func makeDurable(fd descriptor) error {
	if err := unix.Syncfs(int(fd)); err != nil {
		return fmt.Errorf("sync the copy: %w", err)
	}
	return nil
}
