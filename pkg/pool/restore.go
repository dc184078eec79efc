package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Sources finds the pools of what is copied. Errors: those that the copy is to fail with.
type Sources interface {
	ByID(id volume.PoolID) (*Pool, error)
}

// CreateFrom is Create for a volume whose content is that of a snapshot or of another volume, in this pool or another one. The copy has
// the mode and owner of its source, not those of the request's specification, and is independent of it. A copy that takes longer than
// the context goes on, and the same call joins it. Errors: those of Create; ErrNotFound for the source, ErrInvalid when it is of
// another type, ErrOutOfRange when it is larger, ErrBusy while the copy goes on.
func (p *Pool) CreateFrom(ctx context.Context, req volume.CreateRequest, sources Sources) (volume.Volume, error) {
	id := volume.NewID(p.id, req.Name)
	err := p.jobs.run(ctx, "volume "+id.String(), req, func(ctx context.Context, progress *copytree.Progress) error {
		return p.restore(ctx, id, req, sources, progress)
	})
	if err != nil {
		return volume.Volume{}, err
	}
	v, err := p.Get(id)
	if errors.Is(err, volume.ErrNotFound) {
		return volume.Volume{}, fmt.Errorf("%w: volume %s was deleted while it was being made: ask again", volume.ErrBusy, id)
	}
	return v, err
}

// restore is the work of CreateFrom. A volume that is there already needs no source: that may be gone by now.
func (p *Pool) restore(
	ctx context.Context, id volume.ID, req volume.CreateRequest, sources Sources, progress *copytree.Progress,
) error {
	if err := p.index.claim(id); err != nil {
		return err
	}
	defer p.index.unclaim(id)
	if e, ok := p.index.get(id.Dir()); ok {
		if err := compatible(e, req); err != nil {
			return err
		}
		return p.syncPlaced(p.volumes)
	}
	other, err := sources.ByID(req.Source.Pool())
	if err != nil {
		return fmt.Errorf("copy %s: %w", req.Source, err)
	}
	from, err := p.holdInTurn(ctx, func() (*origin, error) { return other.holdFitting(req) })
	if err != nil {
		return err
	}
	defer from.release()
	bytes, err := req.Spec.Size(volume.SizeRange{Required: max(req.Size.Required, from.restoreBytes), Limit: req.Size.Limit})
	if err != nil {
		return err
	}
	v := volume.Volume{
		ID: id, Name: req.Name, Spec: req.Spec, Owner: req.Owner, Source: req.Source,
		CapacityBytes: bytes,
		Created:       time.Now().UTC(),
	}
	if p.cloner().ChargesWriter() && !v.Spec.IsImage() {
		v.SharedBytes = from.sharedBytes
		if from.isLive {
			v.SharedBytes = addSaturating(from.restoreBytes, from.sharedBytes)
		}
	}
	_, err = p.make(ctx, v, copied{from: from, progress: progress})
	return err
}

// copied is the content of a volume that is made from another one, or from a snapshot.
type copied struct {
	from     *origin
	progress *copytree.Progress
}

func (copied) leaves(v volume.Volume) int64 { return v.PromisedBytes() }

func (c copied) make(ctx context.Context, p *Pool, d dir, v *volume.Volume) (*os.File, error) {
	if v.Spec.IsImage() {
		return c.makeImage(ctx, p, d, v)
	}
	made, err := p.cloner().Clone(backend.Source{Dir: c.from.dir.File, Tag: c.from.tag}, d.File, v.CapacityBytes)
	if !errors.Is(err, errors.ErrUnsupported) {
		v.QuotaID = uint64(made.Tag)
		if v.SharedBytes > 0 && c.from.isLive && made.WrittenBytes > 0 {
			p.settle(&v.SharedBytes, addSaturating(made.WrittenBytes, c.from.sharedBytes))
		}
		return made.Data, err
	}
	p.settle(&v.SharedBytes, 0) // a copy shares nothing, or the filesystem counts that as if it did not
	data, tag, _, err := p.duplicate(ctx, d, c.from, v.CapacityBytes, c.progress)
	v.QuotaID = uint64(tag)
	if err == nil {
		err = p.backend.Resize(d.File, tag, v.Spec, v.CapacityBytes)
	}
	return data, err
}

// copySlack and an eighth of its size are what a copy may take beyond its size while it is made: directories and the maps of large files
// may need more blocks than the source's did. The bound is for a pod that makes files faster than they are copied.
const copySlack = 64 << 20

// duplicate copies an origin's data file by file into the directory of what is being built, under a quota of its own. It is durable when
// it returns, but for its name. The tag is returned also on failure.
func (p *Pool) duplicate(
	ctx context.Context, d dir, from *origin, bytes int64, progress *copytree.Progress,
) (*os.File, backend.Tag, copytree.Stats, error) {
	if p.clones(from.spec) { // it could not after all
		leave, err := p.throttle.enter(ctx)
		if err != nil {
			return nil, 0, copytree.Stats{}, err
		}
		defer leave()
	}
	source, err := backend.OpenData(from.dir.File, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, 0, copytree.Stats{}, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, from.id, err)
	}
	defer source.Close()
	spec := from.spec
	spec.Inodes = 0 // the copier needs some of its own; a volume's limit comes when the copy is there
	data, tag, err := p.backend.Make(d.File, spec, addSaturating(bytes, bytes/8+copySlack))
	if err != nil {
		return nil, tag, copytree.Stats{}, err
	}
	stats, err := copytree.Tree(ctx, source, data, copytree.Options{Progress: progress, Limiter: p.throttle.limiter})
	if err != nil {
		return nil, tag, stats, errors.Join(err, data.Close())
	}
	return data, tag, stats, nil
}
