package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// origin is a volume or a snapshot that something is copied from. Nobody deletes it until release.
type origin struct {
	id      catalog.Name
	dir     openat.Dir // its directory
	quotaID volume.QuotaID
	spec    volume.Spec
	// isLive: it is a volume, in which pods may be writing.
	isLive bool
	// created is when it was made.
	created time.Time
	// restoreBytes is the least size of a volume that is made from it.
	restoreBytes int64
	// sharedBytes is the most that a clone can share with it, beyond what counts for its own quota ID.
	sharedBytes int64
	// filesystemBytes is the size of the filesystem in an image.
	filesystemBytes int64
	// formatting: a filesystem was being made in an image.
	formatting bool
	release    func()
}

// hold finds what is to be copied. Errors: ErrNotFound, ErrBusy while it is being made or deleted,
// ErrCorrupt.
func (p *Pool) hold(source volume.Source) (*origin, error) {
	if id, ok := source.Snapshot(); ok {
		return p.holdSnapshot(id)
	}
	id, _ := source.Volume()
	return p.holdVolume(id)
}

// holdFitting is hold for a copy that is to be a volume. Errors: those of fits as well.
func (p *Pool) holdFitting(req volume.CreateRequest) (*origin, error) {
	from, err := p.hold(req.Source)
	if err != nil {
		return nil, err
	}
	if err := from.fits(req.Spec, req.Size); err != nil {
		from.release()
		return nil, err
	}
	return from, nil
}

// holdInTurn waits until this pool may make a copy, and only then holds its source: until then that
// may be staged, expanded and deleted, and the copy is of what it is by then. What cannot be is
// refused before. The turn ends with the hold.
func (p *Pool) holdInTurn(ctx context.Context, hold func() (*origin, error)) (*origin, error) {
	first, err := hold()
	if err != nil {
		return nil, err
	}
	first.release()
	leave, err := p.turn(ctx, first.spec)
	if err != nil {
		return nil, err
	}
	from, err := hold()
	if err == nil && from.spec.IsImage() != first.spec.IsImage() {
		from.release()
		err = fmt.Errorf("%w: %s has been made anew as something else: ask again", volume.ErrBusy,
			from.id)
	}
	if err != nil {
		leave()
		return nil, err
	}
	unhold := from.release
	from.release = func() { unhold(); leave() }
	return from, nil
}

// turn waits until a copy may begin, if it is one that takes time.
func (p *Pool) turn(ctx context.Context, spec volume.Spec) (leave func(), err error) {
	if p.clones(spec) {
		return func() {}, nil
	}
	return p.throttle.Enter(ctx)
}

// clones says whether the filesystem has a way to copy such a volume at one moment. It may still
// refuse a particular one.
func (p *Pool) clones(spec volume.Spec) bool {
	_, ok := p.backend.(backend.Cloner)
	return ok && !spec.IsImage()
}

func (p *Pool) holdVolume(id volume.ID) (*origin, error) {
	unshare, err := p.volumes.catalog.Share(id)
	if err != nil {
		return nil, err
	}
	v, err := p.Get(id)
	o := &origin{
		id:              id,
		quotaID:         v.QuotaID,
		spec:            v.Spec,
		restoreBytes:    v.CapacityBytes,
		sharedBytes:     v.SharedBytes,
		isLive:          true,
		created:         v.Created,
		filesystemBytes: v.FilesystemBytes,
		formatting:      v.Formatting,
		release:         unshare,
	}
	return o.open(p.volumes.dir, err)
}

func (p *Pool) holdSnapshot(id volume.SnapshotID) (*origin, error) {
	unshare, err := p.snapshots.catalog.Share(id)
	if err != nil {
		return nil, err
	}
	s, err := p.GetSnapshot(id)
	o := &origin{
		id:              id,
		quotaID:         s.QuotaID,
		spec:            s.Spec,
		restoreBytes:    s.RestoreBytes,
		sharedBytes:     s.HeldBytes,
		filesystemBytes: s.FilesystemBytes,
		formatting:      s.Formatting,
		release:         unshare,
	}
	return o.open(p.snapshots.dir, err)
}

// open opens the directory, or gives the hold back.
func (o *origin) open(parent openat.Dir, failed error) (*origin, error) {
	err := failed
	if err == nil {
		o.dir, err = parent.OpenDir(o.id.Dir())
	}
	if err != nil {
		o.release()
		return nil, fmt.Errorf("copy %s: %w", o.id, err)
	}
	unhold := o.release
	o.release = func() { o.dir.Close(); unhold() }
	return o, nil
}

// fits says whether a volume of that specification and size can be made from it. Errors:
// ErrInvalid, ErrOutOfRange.
func (o *origin) fits(spec volume.Spec, size volume.SizeRange) error {
	switch {
	case spec.IsImage() != o.spec.IsImage(), spec.FSType != o.spec.FSType:
		return fmt.Errorf(
			"%w: the source is %s%s: a directory, an image with a filesystem and a raw block volume are not made of one another",
			volume.ErrInvalid,
			o.id,
			o.spec.Differences(spec),
		)
	case spec.Type != o.spec.Type:
		return fmt.Errorf(
			"%w: %s is of type %s, asked for is one of type %s: a copy has the type of its source",
			volume.ErrInvalid,
			o.id,
			o.spec.Type,
			spec.Type,
		)
	case size.Required > 0 && size.Required < o.restoreBytes,
		size.Limit > 0 && size.Limit < o.restoreBytes:
		return fmt.Errorf(
			"%w: %s has %d bytes, asked for are %s: a copy is at least as large as its source",
			volume.ErrOutOfRange,
			o.id,
			o.restoreBytes,
			size,
		)
	default:
		return nil
	}
}

// cloner is the pool's filesystem, or what answers for one that cannot copy a volume at once.
func (p *Pool) cloner() backend.Cloner {
	if c, ok := p.backend.(backend.Cloner); ok {
		return c
	}
	return noCloner{}
}

// noCloner can do nothing.
type noCloner struct{}

func (noCloner) Snapshot(backend.Source, *os.File) (backend.Clone, error) {
	return backend.Clone{}, errors.ErrUnsupported
}

func (noCloner) Clone(backend.Source, *os.File, int64) (backend.Clone, error) {
	return backend.Clone{}, errors.ErrUnsupported
}

func (noCloner) ChargesWriter() bool { return false }
