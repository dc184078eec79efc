package pool

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Create makes a volume, or returns the one of that name if it is what the request asks for. When
// it returns a volume, the volume survives a power cut. Errors: ErrIncompatible when the name is
// taken by something else, ErrNoSpace, ErrBusy while another call creates or deletes that name,
// ErrCorrupt when the name belongs to a damaged volume.
func (p *Pool) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	id := volume.NewID(p.id, req.Name)
	unlock, err := p.volumes.catalog.Lock(id)
	if err != nil {
		return volume.Volume{}, err
	}
	defer unlock()
	p.calls.Enter()
	defer p.calls.Leave()
	if v, exists, err := p.volumes.existing(id, req.CheckAnsweredBy); exists {
		return v, err
	}
	if !req.Source.IsNone() {
		return volume.Volume{}, fmt.Errorf("%w: volume %s is to be made from %s: use CreateFrom",
			volume.ErrInvalid, id, req.Source)
	}
	v, err := p.newVolume(id, req)
	if err != nil {
		return volume.Volume{}, err
	}
	return p.volumes.create(ctx, id, v, dataMaker[volume.Volume]{make: p.makeEmpty})
}

// newVolume returns the volume that a request asks for, as it will be created now. Errors:
// ErrOutOfRange for the size; ErrNoSpace when its inodes cannot be limited; those of
// checkEnforced.
func (p *Pool) newVolume(id volume.ID, req volume.CreateRequest) (volume.Volume, error) {
	spec := req.Spec.DecideFor(p.backend)
	bytes, err := spec.Size(req.Size)
	if err == nil {
		err = req.Mutable.CheckFits(spec)
	}
	v := volume.Volume{
		ID:            id,
		Name:          req.Name,
		Spec:          spec,
		CapacityBytes: bytes,
		Created:       time.Now().UTC(),
		Owner:         req.Owner,
		Source:        req.Source,
		Mutable:       req.Mutable,
	}
	if err == nil {
		err = p.checkInodes(v.LimitedSpec())
	}
	if err == nil {
		err = p.checkEnforced(spec)
	}
	return v, err
}

// makeEmpty makes the data of a volume that is made from nothing.
func (p *Pool) makeEmpty(
	_ context.Context,
	d openat.Dir,
	v *volume.Volume,
) (f *os.File, err error) {
	f, v.QuotaID, err = p.backendOf(v.Spec).Make(d, v.LimitedSpec(), v.CapacityBytes)
	return f, err
}

// checkInodes refuses an inode limit that the filesystem cannot enforce. The pool of that name on
// another node may be able to. Errors: ErrNoSpace.
func (p *Pool) checkInodes(s volume.Spec) error {
	if p.canLimitInodes(s) {
		return nil
	}
	return fmt.Errorf("%w here: %s", volume.ErrNoSpace, p.inodesRemedy(s))
}

func (p *Pool) canLimitInodes(s volume.Spec) bool {
	return s.Inodes == 0 || p.backendOf(s).LimitsInodes()
}

func (p *Pool) inodesRemedy(s volume.Spec) string {
	return fmt.Sprintf("parameter %q is %d, but pool %s cannot limit the number of files: "+
		"this needs XFS or ext4 mounted with prjquota, and a quota other than off in the configuration",
		volume.ParamInodes, s.Inodes, p.opts.Name)
}

// checkEnforced refuses a copy of a directory in a pool that enforces no sizes, if its class asks
// for a size that holds: a copy is what its source is, so it is no image. Errors: ErrInvalid.
func (p *Pool) checkEnforced(s volume.Spec) error {
	if !s.EnforcedSize || p.backendOf(s).Enforces() {
		return nil
	}
	return fmt.Errorf(
		"%w: parameter %q is %s, and the source is a directory, as its copy would be, but pool %s "+
			"counts sizes only: use a class without %q, or a filesystem with quotas (docs/sizes.md)",
		volume.ErrInvalid, volume.ParamBacking, volume.EnforcedBacking, p.opts.Name,
		volume.ParamBacking)
}
