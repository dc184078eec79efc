// Package copying makes the data of a snapshot, or of a volume that has a source. It decides how
// the data is copied, makes a copy wait until fewer others are under way, and limits what a copy
// takes of the disk. It knows no pool: the caller finds the source, keeps others from deleting it,
// and reserves the bytes of the copy. All sizes are in bytes.
package copying

import (
	"context"
	"errors"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Method is how data is copied.
type Method int

const (
	// ByFilesystem lets the filesystem make a snapshot or a clone at one moment (backend.Cloner).
	ByFilesystem Method = iota
	// ByImage copies the file of an image at one moment (pkg/image).
	ByImage
	// ByFiles copies a directory or a file, file by file (pkg/copytree).
	ByFiles
)

// Copier makes the copies of one pool.
type Copier struct {
	// Backend is the filesystem that gets the copies.
	Backend backend.Backend
	// Throttle limits how many copies are under way, and how fast they are.
	Throttle Throttle
	// Yielder lets other work go before a copy that is made file by file.
	Yielder copytree.Yielder
}

// MethodFor returns how a source with that specification is copied.
func (c *Copier) MethodFor(spec volume.Spec) Method {
	_, canClone := c.Backend.(backend.Cloner)
	switch {
	case spec.IsImage():
		return ByImage
	case canClone:
		return ByFilesystem
	default:
		return ByFiles
	}
}

// Copy is one copy that is under way.
type Copy struct {
	copier   *Copier
	method   Method
	progress *copytree.Progress
	// cloneRefused: the filesystem has refused to copy the source at one moment.
	cloneRefused bool
	endTurn      func()
}

// Begin waits until the copier may make one more copy. A copy by the filesystem does not wait,
// because it takes no time. The caller calls End. Errors: the context's cause.
func (c *Copier) Begin(
	ctx context.Context, method Method, progress *copytree.Progress,
) (*Copy, error) {
	begun := &Copy{copier: c, method: method, progress: progress, endTurn: func() {}}
	if method == ByFilesystem {
		return begun, nil
	}
	if err := begun.waitTurn(ctx); err != nil {
		return nil, err
	}
	return begun, nil
}

// End lets the next copy begin.
func (c *Copy) End() { c.endTurn() }

// Planned returns how the copy is to be made. If the filesystem refuses the source, it is made by
// files instead: Made says so.
func (c *Copy) Planned() Method { return c.method }

func (c *Copy) waitTurn(ctx context.Context) error {
	leave, err := c.copier.Throttle.Enter(ctx)
	if err == nil {
		c.endTurn = leave
	}
	return err
}

// Target is what the copy becomes.
type Target struct {
	// Dir is the directory of the unfinished volume or snapshot.
	Dir openat.Dir
	// Bytes is the size of the new volume or, for a snapshot, of its source. Inodes is the limit for
	// the number of files; 0 means no limit.
	Bytes  int64
	Inodes uint64
	// Allocation is that of an image.
	Allocation volume.Allocation
	// Clone lets the filesystem make the data in Dir. Make calls it only for ByFilesystem. Errors:
	// errors.ErrUnsupported if the filesystem refuses the source.
	Clone func(backend.Source) (backend.Clone, error)
}

// Made is the data that Make has made.
type Made struct {
	// Method is how the data was made.
	Method Method
	// Data is open, and the caller closes it. Its content is durable, its name is not. It is nil
	// after an error.
	Data *os.File
	// QuotaID is also set after an error: parts of the data may remain under it.
	QuotaID volume.QuotaID
	// OccupiedBytes is what the copy takes of the disk, and Inodes how many inodes it has below its
	// root. Make does not set them for ByFilesystem, and Inodes not for ByImage.
	OccupiedBytes int64
	Inodes        int64
}

// Make makes the data of the copy. If the filesystem refuses to copy the source at one moment, the
// source is copied file by file. Errors: ErrOutOfRange when the source has more than the target may
// have; ErrPrecondition when it has too many levels of directories; ErrCorrupt when it has no data;
// for an image also ErrBusy and ErrInUse (image.MakeFrom).
func (c *Copy) Make(ctx context.Context, from Source, to Target) (Made, error) {
	var made Made
	var err error
	switch c.method {
	case ByImage:
		made, err = c.copyImage(ctx, from, to)
	case ByFiles:
		made, err = c.copyFiles(ctx, from, to)
	default:
		return c.clone(ctx, from, to)
	}
	made.Method = c.method
	return made, err
}

// clone lets the filesystem make the data, or copies file by file if the filesystem refuses.
func (c *Copy) clone(ctx context.Context, from Source, to Target) (Made, error) {
	made, err := to.Clone(backend.Source{Dir: from.Dir, QuotaID: from.QuotaID})
	if !errors.Is(err, errors.ErrUnsupported) {
		return Made{Method: ByFilesystem, Data: made.Data, QuotaID: made.QuotaID}, err
	}
	c.cloneRefused = true
	if err := c.waitTurn(ctx); err != nil {
		return Made{}, err
	}
	copied, err := c.copyFiles(ctx, from, to)
	copied.Method = ByFiles
	return copied, err
}
