package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/job"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
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
	return job.Run(ctx, p.jobs.Jobs, "volume "+id.String(), req,
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
	if v, exists, err := p.volumes.existing(id, req.CheckAnsweredBy); exists {
		return v, err
	}
	other, err := sources.ByID(req.Source.Pool())
	if err != nil {
		return volume.Volume{}, fmt.Errorf("copy %s: %w", req.Source, err)
	}
	lockSource := func() (*copySource, error) { return other.lockFitting(req) }
	c, err := p.beginCopy(ctx, lockSource, progress)
	if err != nil {
		return volume.Volume{}, err
	}
	defer c.end()
	req.Spec = req.Spec.DecideAs(c.from.Spec)
	req.Size.Required = max(req.Size.Required, c.from.Bytes)
	v, err := p.newVolume(id, req)
	if err != nil {
		return volume.Volume{}, err
	}
	v.SharedBytes = c.mostShared()
	v.FilesystemBytes, v.Formatting = c.from.filesystemBytes, c.from.formatting
	data := volumeCopy{activeCopy: c, maxBytes: req.Size.Limit}.data
	return p.volumes.create(ctx, id, v, dataMaker[volume.Volume]{make: data, isCopy: true})
}

// mostShared returns the most bytes of the new volume that the filesystem may charge to the source
// instead of the volume.
func (c *activeCopy) mostShared() int64 {
	switch {
	case c.Planned() != copying.ByFilesystem || !c.pool.cloner.ChargesWriter():
		return 0
	case c.from.isLive:
		return ledger.Sum(c.from.Bytes, c.from.sharedBytes)
	default:
		return c.from.sharedBytes
	}
}

// volumeCopy is a copy that becomes a volume.
type volumeCopy struct {
	*activeCopy

	maxBytes int64 // the most bytes that the volume may have; 0 means no limit
}

// data makes the volume's data, and sets its quota ID and sizes in v. The filesystem in an image
// grows when the volume is staged.
func (c volumeCopy) data(ctx context.Context, d openat.Dir, v *volume.Volume) (*os.File, error) {
	made, err := c.Make(ctx, c.from.Source, copying.Target{
		Dir: d, Bytes: v.CapacityBytes, Inodes: v.LimitedSpec().Inodes, Allocation: v.Spec.Allocation,
		Clone: func(from backend.Source) (backend.Clone, error) { return c.clone(from, d, v) },
	})
	v.QuotaID = made.QuotaID
	if err != nil || made.Method != copying.ByFiles {
		return made.Data, err
	}
	err = c.fit(v, made.OccupiedBytes)
	if err == nil {
		err = c.pool.backend.Resize(d, v.QuotaID, v.LimitedSpec(), v.CapacityBytes)
	}
	if err != nil {
		return nil, errors.Join(err, made.Data.Close())
	}
	return made.Data, nil
}

// clone lets the filesystem make the volume's data, and counts what it shares with the source.
func (c volumeCopy) clone(
	from backend.Source, d openat.Dir, v *volume.Volume,
) (backend.Clone, error) {
	made, err := c.pool.cloner.Clone(from, d, v.CapacityBytes)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		// A copy file by file shares nothing, or the filesystem counts that as if it did not.
		c.pool.replaceReserved(&v.SharedBytes, 0)
	case err == nil && v.SharedBytes > 0 && c.from.isLive && made.WrittenBytes > 0:
		c.pool.replaceReserved(&v.SharedBytes, ledger.Sum(made.WrittenBytes, c.from.sharedBytes))
	}
	return made, err
}

// fit raises a volume's size to the bytes that its copy takes, if those are more: the directories
// of a copy can take some blocks more than the source's, and a new volume must not exceed its size.
// Errors: ErrOutOfRange, ErrNoSpace.
func (c volumeCopy) fit(v *volume.Volume, occupied int64) error {
	if occupied <= v.CapacityBytes {
		return nil
	}
	if c.maxBytes > 0 && occupied > c.maxBytes {
		return fmt.Errorf("%w: the copy of %s takes %d bytes; requested: at most %d",
			volume.ErrOutOfRange, c.from.Name, occupied, c.maxBytes)
	}
	if err := c.pool.reserve(occupied - v.CapacityBytes); err != nil {
		return err
	}
	v.CapacityBytes = occupied
	return nil
}
