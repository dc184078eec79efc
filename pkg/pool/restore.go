package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copyjob"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Sources finds the pools of copy sources. Its errors are returned to the caller of the copy.
type Sources interface {
	ByID(id volume.PoolID) (*Pool, error)
}

// CreateFrom is Create for a volume whose content is that of a snapshot or of another volume, in
// this pool or another one. The copy has the mode and owner of its source, not those of the
// request's specification, and is independent of it. A copy that takes longer than the context goes
// on, and the same call joins it. Errors: those of Create; ErrNotFound for the source, ErrInvalid
// when it is of another type, ErrOutOfRange when it is larger, ErrBusy while the copy goes on.
func (p *Pool) CreateFrom(
	ctx context.Context, req volume.CreateRequest, sources Sources,
) (volume.Volume, error) {
	id := volume.NewID(p.id, req.Name)
	return copyjob.Run(ctx, p.jobs, "volume "+id.String(), req,
		func(ctx context.Context, progress *copytree.Progress) (volume.Volume, error) {
			return p.restore(ctx, id, req, sources, progress)
		})
}

// restore does the work of CreateFrom inside the copy job. If the volume exists already, the source
// is not needed: the source may have been deleted.
func (p *Pool) restore(
	ctx context.Context,
	id volume.ID,
	req volume.CreateRequest,
	sources Sources,
	progress *copytree.Progress,
) (volume.Volume, error) {
	unlock, err := p.volumes.catalog.Lock(id)
	if err != nil {
		return volume.Volume{}, err
	}
	defer unlock()
	if e, ok := p.volumes.catalog.Get(id.Dir()); ok {
		return p.existing(e, req)
	}
	other, err := sources.ByID(req.Source.Pool())
	if err != nil {
		return volume.Volume{}, fmt.Errorf("copy %s: %w", req.Source, err)
	}
	share := func() (*copySource, error) { return other.shareFitting(req) }
	c, err := p.beginCopy(ctx, share, progress)
	if err != nil {
		return volume.Volume{}, err
	}
	defer c.end()
	r := restoring{copying: c, limit: req.Size.Limit}
	req.Size.Required = max(req.Size.Required, c.from.restoreBytes)
	v, err := p.newVolume(id, req)
	if err != nil {
		return volume.Volume{}, err
	}
	v.SharedBytes = c.mostShared()
	return p.volumes.publish(ctx, id, v, making[volume.Volume]{data: r.data, isCopy: true})
}

// mostShared returns the most bytes of the new volume that the filesystem may charge to the source
// instead of the volume.
func (c *copying) mostShared() int64 {
	switch {
	case c.method != byFilesystem || !c.pool.cloner.ChargesWriter():
		return 0
	case c.from.isLive:
		return ledger.Sum(c.from.restoreBytes, c.from.sharedBytes)
	default:
		return c.from.sharedBytes
	}
}

// restoring is a copy that becomes a volume.
type restoring struct {
	*copying

	limit int64 // the most bytes that the volume may have; 0 is any
}

// data makes the data of the volume.
func (r restoring) data(ctx context.Context, d openat.Dir, v *volume.Volume) (*os.File, error) {
	return r.make(ctx, ways{
		clone: func() (*os.File, error) { return r.clone(d, v) },
		image: func() (*os.File, error) { return r.image(ctx, d, v) },
		files: func() (*os.File, error) { return r.files(ctx, d, v) },
	})
}

func (r restoring) clone(d openat.Dir, v *volume.Volume) (*os.File, error) {
	made, err := r.pool.cloner.Clone(r.source(), d.File, v.CapacityBytes)
	v.QuotaID = made.QuotaID
	if err != nil {
		return nil, err
	}
	if v.SharedBytes > 0 && r.from.isLive && made.WrittenBytes > 0 {
		r.pool.replaceReserved(&v.SharedBytes, ledger.Sum(made.WrittenBytes, r.from.sharedBytes))
	}
	return made.Data, nil
}

// image copies an image. The filesystem in it grows when the volume is staged.
func (r restoring) image(ctx context.Context, d openat.Dir, v *volume.Volume) (*os.File, error) {
	data, err := r.copyImage(ctx, d, v.Spec.Allocation, v.CapacityBytes)
	if err == nil {
		v.FilesystemBytes, v.Formatting = r.from.filesystemBytes, r.from.formatting
	}
	return data, err
}

func (r restoring) files(ctx context.Context, d openat.Dir, v *volume.Volume) (*os.File, error) {
	// a copy shares nothing, or the filesystem counts that as if it did not
	r.pool.replaceReserved(&v.SharedBytes, 0)
	made, held, err := r.copyFiles(ctx, d, bound{bytes: v.CapacityBytes, inodes: v.Spec.Inodes})
	v.QuotaID = made.QuotaID
	if err != nil {
		return nil, err
	}
	err = r.fit(v, held)
	if err == nil {
		err = r.pool.backend.Resize(d.File, made.QuotaID, v.Spec, v.CapacityBytes)
	}
	if err != nil {
		return nil, errors.Join(err, made.Data.Close())
	}
	return made.Data, nil
}

// fit raises a volume's size to the bytes that its copy takes, if those are more: the directories
// of a copy can take some blocks more than the source's, and a new volume must not exceed its size.
// Errors: ErrOutOfRange, ErrNoSpace.
func (r restoring) fit(v *volume.Volume, held int64) error {
	if held <= v.CapacityBytes {
		return nil
	}
	if r.limit > 0 && held > r.limit {
		return fmt.Errorf("%w: what was copied of %s takes %d bytes, asked for are at most %d",
			volume.ErrOutOfRange, r.from.id, held, r.limit)
	}
	if err := r.pool.reserve(held - v.CapacityBytes); err != nil {
		return err
	}
	v.CapacityBytes = held
	return nil
}
