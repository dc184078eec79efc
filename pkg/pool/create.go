package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Create makes a volume, or returns the one of that name if it is what the request asks for. When
// it returns a volume, the volume survives a power cut. Errors: ErrIncompatible when the name is
// taken by something else, ErrNoSpace, ErrBusy while another call creates or deletes that name,
// ErrCorrupt when the name belongs to a damaged volume.
func (p *Pool) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	id := volume.NewID(p.id, req.Name)
	if err := p.index.claim(id); err != nil {
		return volume.Volume{}, err
	}
	defer p.index.unclaim(id)
	p.calls.Enter()
	defer p.calls.Leave()
	if e, ok := p.index.get(id.Dir()); ok {
		if err := compatible(e, req); err != nil {
			return volume.Volume{}, err
		}
		// Whoever made it may have died, or been refused, between the rename and the fsync: this
		// answer has to be as good as the first.
		return e.volume, p.syncPlaced(p.volumes)
	}
	if !req.Source.IsNone() {
		return volume.Volume{}, fmt.Errorf("%w: volume %s is to be made from %s: use CreateFrom",
			volume.ErrInvalid, id, req.Source)
	}
	bytes, err := req.Spec.Size(req.Size)
	if err != nil {
		return volume.Volume{}, err
	}
	return p.make(ctx, volume.Volume{
		ID:            id,
		Name:          req.Name,
		Spec:          req.Spec,
		CapacityBytes: bytes,
		Created:       time.Now().UTC(),
		Owner:         req.Owner,
	}, empty{})
}

// make makes a volume that is not there yet; the caller has its claim.
func (p *Pool) make(ctx context.Context, v volume.Volume, content content) (volume.Volume, error) {
	if err := p.checkInodes(v.Spec); err != nil {
		return volume.Volume{}, err
	}
	if err := checkUnburied(p.volumes, v.ID); err != nil {
		return volume.Volume{}, err
	}
	if err := p.reserve(v.PromisedBytes()); err != nil {
		return volume.Volume{}, fmt.Errorf("pool %s: %w", p.opts.Name, err)
	}
	failpoint.Here("create.reserved")
	made, err := p.commit(ctx, v, content)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("create volume %s in pool %s: %w", v.ID, p.opts.Name, err)
	}
	p.index.put(&entry{volume: made, unenforced: !p.backendOf(made.Spec).Enforces()})
	failpoint.Here("create.indexed")
	return made, nil
}

// content makes the data of a new volume in its directory, as backend.Backend's Make does, and says
// in the volume what became of it. On failure something may be left.
type content interface {
	// leaves is how much of the disk may be taken by what a failure has left.
	leaves(v volume.Volume) int64
	make(ctx context.Context, p *Pool, d openat.Dir, v *volume.Volume) (*os.File, error)
}

// empty is the content of a volume that is made from nothing.
type empty struct{}

func (empty) leaves(volume.Volume) int64 { return 0 }

func (empty) make(_ context.Context, p *Pool, d openat.Dir, v *volume.Volume) (*os.File, error) {
	f, quotaID, err := p.backendOf(v.Spec).Make(d.File, v.Spec, v.CapacityBytes)
	v.QuotaID = quotaID
	return f, err
}

// checkInodes refuses what would be a limit in the record only. Another node's pool of that name
// may have a filesystem that can. Errors: ErrNoSpace.
func (p *Pool) checkInodes(s volume.Spec) error {
	if s.Inodes == 0 || p.backendOf(s).LimitsInodes() {
		return nil
	}
	return fmt.Errorf(
		"%w here: parameter %q is %d, and pool %s cannot limit numbers of files: that takes XFS or ext4, mounted with "+
			"prjquota, and a quota that is not off",
		volume.ErrNoSpace,
		volume.ParamInodes,
		s.Inodes,
		p.opts.Name,
	)
}

// compatible says whether an existing volume answers a request of the same name (CSI spec,
// CreateVolume: ALREADY_EXISTS).
func compatible(e *entry, req volume.CreateRequest) error {
	v := e.volume
	switch {
	case e.damaged != nil:
		return e.damaged
	case v.Name != req.Name:
		return fmt.Errorf("%w: volume %s has the name %q, asked for is %q", volume.ErrIncompatible, v.ID,
			v.Name, req.Name)
	case v.Owner.PodUID != req.Owner.PodUID:
		return fmt.Errorf(
			"%w: volume %s belongs to the pod with UID %q, asked for is one of %q (empty: of no pod)",
			volume.ErrIncompatible,
			v.ID,
			v.Owner.PodUID,
			req.Owner.PodUID,
		)
	case v.Source != req.Source:
		return fmt.Errorf("%w: volume %s was made from %s, asked for is one from %s",
			volume.ErrIncompatible, v.ID, v.Source, req.Source)
	case v.Spec != req.Spec:
		return fmt.Errorf("%w: volume %s is there%s", volume.ErrIncompatible, v.ID,
			v.Spec.Differences(req.Spec))
	case !req.Size.Contains(v.CapacityBytes):
		return fmt.Errorf("%w: volume %s has %d bytes, asked for are %s", volume.ErrIncompatible, v.ID,
			v.CapacityBytes, req.Size)
	default:
		return nil
	}
}

// commit builds the volume under tmp/ and renames it into place. It takes over the ledger's
// reservation: on failure the bytes are given back, or go to the trash with what was built.
func (p *Pool) commit(
	ctx context.Context, v volume.Volume, content content,
) (volume.Volume, error) {
	building := withSuffix(v.ID.Dir())
	v, err := p.build(ctx, building, v, content)
	if err != nil {
		p.ledger.Release(v.PromisedBytes() - content.leaves(v))
		p.abandon(building, discarded{bytes: content.leaves(v), quotaID: v.QuotaID})
		return volume.Volume{}, err
	}
	failpoint.Here("create.built")
	if err := p.tmp.RenameNoReplace(building, p.volumes, v.ID.Dir()); err != nil {
		p.ledger.Release(v.PromisedBytes() - content.leaves(v))
		p.abandon(building, discarded{bytes: content.leaves(v), quotaID: v.QuotaID})
		if errors.Is(err, os.ErrExist) {
			return volume.Volume{}, fmt.Errorf(
				"%w: volumes/%s was put there while the driver ran: restart the driver to adopt it, or take it away",
				volume.ErrCorrupt,
				v.ID.Dir(),
			)
		}
		return volume.Volume{}, err
	}
	failpoint.Here("create.renamed")
	if err := p.syncPlaced(p.volumes); err != nil {
		// In place, but perhaps not after a power cut: nobody was told of it, so it goes.
		e := &entry{volume: v}
		p.index.put(e) // should that fail too, a retry finds it, and syncs
		thrown, taken := p.take(e)
		if taken == nil {
			p.queue(thrown, err)
		}
		return volume.Volume{}, errors.Join(err, taken)
	}
	return v, nil
}

// build makes everything a volume consists of, durable but for its final name. What it returns has
// the quota ID, also on failure.
func (p *Pool) build(
	ctx context.Context, building string, v volume.Volume, content content,
) (volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return v, err
	}
	d, err := p.tmp.Mkdir(building)
	if err != nil {
		return v, err
	}
	defer d.Close()
	failpoint.Here("create.directory-made")
	data, err := content.make(ctx, p, d, &v)
	if err != nil {
		return v, err
	}
	defer data.Close()
	failpoint.Here("create.data-made")
	encoded, err := record.EncodeVolume(v)
	if err != nil {
		return v, err
	}
	if err := d.WriteFile(record.VolumeFile, encoded, p.commits.SyncFile); err != nil {
		return v, err
	}
	failpoint.Here("create.record-written")
	// else the record's fsync has carried the rest: it is metadata, and a copy is durable already
	if !p.ordered {
		if err := errors.Join(data.Sync(), d.Sync()); err != nil {
			return v, err
		}
	}
	return v, ctx.Err()
}

// abandon has what build left purged where it is, with the bytes that are still reserved for it:
// half a copy fills the disk until then. The purger has the patience that a quota may need.
func (p *Pool) abandon(building string, left discarded) {
	p.ledger.MoveToTrash(left.bytes)
	left.at, left.name, left.lookAfter = p.tmp, building, time.Now()
	p.purger.add(left)
}

// syncPlaced makes renames from tmp/ into volumes/ or snapshots/ durable.
func (p *Pool) syncPlaced(to openat.Dir) error { return p.commits.SyncFile(to.File) }
