package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copyjob"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Sources finds the pools of what is copied. Errors: those that the copy is to fail with.
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

// restore is the work of CreateFrom. A volume that is there already needs no source: that may be
// gone by now.
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
	from, err := p.holdInTurn(ctx, func() (*origin, error) { return other.holdFitting(req) })
	if err != nil {
		return volume.Volume{}, err
	}
	defer from.release()
	bytes, err := req.Spec.Size(
		volume.SizeRange{Required: max(req.Size.Required, from.restoreBytes), Limit: req.Size.Limit},
	)
	if err != nil {
		return volume.Volume{}, err
	}
	v := volume.Volume{
		ID: id, Name: req.Name, Spec: req.Spec, Owner: req.Owner, Source: req.Source,
		CapacityBytes: bytes,
		Created:       time.Now().UTC(),
	}
	if p.cloner().ChargesWriter() && !v.Spec.IsImage() {
		v.SharedBytes = from.sharedBytes
		if from.isLive {
			v.SharedBytes = ledger.Sum(from.restoreBytes, from.sharedBytes)
		}
	}
	c := copied{pool: p, from: from, limit: req.Size.Limit, progress: progress}
	return p.publishVolume(ctx, v, making[volume.Volume]{data: c.make, isCopy: true})
}

// copied is the content of a volume that is made from another one, or from a snapshot.
type copied struct {
	pool     *Pool
	from     *origin
	limit    int64 // the most bytes that the volume may have; 0 is any
	progress *copytree.Progress
}

func (c copied) make(ctx context.Context, d openat.Dir, v *volume.Volume) (*os.File, error) {
	p := c.pool
	if v.Spec.IsImage() {
		return c.makeImage(ctx, d, v)
	}
	source := backend.Source{Dir: c.from.dir.File, QuotaID: c.from.quotaID}
	made, err := p.cloner().Clone(source, d.File, v.CapacityBytes)
	if !errors.Is(err, errors.ErrUnsupported) {
		v.QuotaID = made.QuotaID
		if v.SharedBytes > 0 && c.from.isLive && made.WrittenBytes > 0 {
			p.replaceReserved(&v.SharedBytes, ledger.Sum(made.WrittenBytes, c.from.sharedBytes))
		}
		return made.Data, err
	}
	// a copy shares nothing, or the filesystem counts that as if it did not
	p.replaceReserved(&v.SharedBytes, 0)
	made, held, err := p.duplicate(ctx, d, c.from,
		bound{bytes: v.CapacityBytes, inodes: v.Spec.Inodes}, c.progress)
	v.QuotaID = made.QuotaID
	if err != nil {
		return nil, err
	}
	err = c.fit(p, v, held)
	if err == nil {
		err = p.backend.Resize(d.File, made.QuotaID, v.Spec, v.CapacityBytes)
	}
	if err != nil {
		return nil, errors.Join(err, made.Data.Close())
	}
	return made.Data, nil
}

// fit makes a volume as large as what it has got: a copy's directories can take some blocks more
// than the source's did, and a volume never begins beyond its size. Errors: ErrOutOfRange,
// ErrNoSpace.
func (c copied) fit(p *Pool, v *volume.Volume, held int64) error {
	if held <= v.CapacityBytes {
		return nil
	}
	if c.limit > 0 && held > c.limit {
		return fmt.Errorf("%w: what was copied of %s takes %d bytes, asked for are at most %d",
			volume.ErrOutOfRange, c.from.id, held, c.limit)
	}
	if err := p.reserve(held - v.CapacityBytes); err != nil {
		return err
	}
	v.CapacityBytes = held
	return nil
}

// bound is what a copy may hold: the size of the volume that it is to be, or that it is of, and the
// inodes of that, 0 for any number.
type bound struct {
	bytes  int64
	inodes uint64
}

const (
	// copySlack and an eighth of its size are what a copy may take beyond its size while it is
	// made: directories and the maps of large files may need more blocks than the source's did.
	copySlack = 1 << 20
	// quotaSlack is what a quota adds: XFS counts what it may need for a write until that has
	// reached the disk.
	quotaSlack = 64 << 20
)

func (b bound) withSlack() int64 { return ledger.Sum(b.bytes, b.bytes/8+copySlack) }

// options hold a copy to a bound. ext4 exempts us from its quotas (CAP_SYS_RESOURCE), and a plain
// pool has none. btrfs exempts nobody, and counts a block once that several files share: there the
// quota is the bound.
func (p *Pool) options(b bound, progress *copytree.Progress) copytree.Options {
	opts := copytree.Options{
		Progress: progress, Limiter: p.throttle.Limiter, Yielder: &p.calls,
		MaxBytes: b.withSlack(), MaxEntries: int64(min(b.inodes, math.MaxInt64)),
	}
	if _, ok := p.backend.(backend.Cloner); ok && p.backend.Enforces() {
		opts.MaxBytes = 0
	}
	return opts
}

// duplicate copies an origin's data file by file into the directory of what is being built, under a
// quota of its own. It is durable when it returns, but for its name. The quota ID is returned also
// on failure. Errors: ErrOutOfRange when there is more than the bound, ErrPrecondition when it is too
// deep.
func (p *Pool) duplicate(
	ctx context.Context, d openat.Dir, from *origin, to bound, progress *copytree.Progress,
) (made backend.Clone, held int64, err error) {
	if p.clones(from.spec) { // it could not after all
		leave, err := p.throttle.Enter(ctx)
		if err != nil {
			return made, 0, err
		}
		defer leave()
	}
	// Not opened further: a pod may have a lease on a file, for which the copy waits.
	source, err := backend.OpenData(from.dir.File, unix.O_PATH)
	if err != nil {
		return made, 0, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, from.id, err)
	}
	defer source.Close()
	spec := from.spec
	// the copier needs some of its own; a volume's limit comes when the copy is there
	spec.Inodes = 0
	if made.Data, made.QuotaID, err = p.backend.Make(
		d.File,
		spec,
		ledger.Sum(to.withSlack(), quotaSlack),
	); err != nil {
		return made, 0, err
	}
	stats, err := copytree.Tree(ctx, source, made.Data, p.options(to, progress))
	switch {
	case errors.Is(err, copytree.ErrTooDeep):
		err = fmt.Errorf("%w: %s: %w", volume.ErrPrecondition, from.id, err)
	case errors.Is(err, copytree.ErrTooLarge):
		err = fmt.Errorf(
			"%w: %s has more than %d bytes or %d files and directories (0: any number), or pods write to it faster than it is "+
				"copied: expand it, or ask for a larger copy: %w",
			volume.ErrOutOfRange,
			from.id,
			to.bytes,
			to.inodes,
			err,
		)
	case err == nil:
		held, err = p.heldBy(made, stats)
	}
	if err != nil {
		return made, 0, errors.Join(err, made.Data.Close())
	}
	return made, held, nil
}

// heldBy is what a copy takes of the disk: what the filesystem counts for it, or what was counted
// while it was made.
func (p *Pool) heldBy(made backend.Clone, stats copytree.Stats) (int64, error) {
	if made.QuotaID == 0 {
		return stats.AllocatedBytes, nil
	}
	u, err := p.backend.Usage(made.Data, made.QuotaID)
	return u.UsedBytes, err
}
