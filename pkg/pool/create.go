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
	if e, ok := p.volumes.catalog.Get(id.Dir()); ok {
		return p.existing(e, req)
	}
	if !req.Source.IsNone() {
		return volume.Volume{}, fmt.Errorf("%w: volume %s is to be made from %s: use CreateFrom",
			volume.ErrInvalid, id, req.Source)
	}
	v, err := p.newVolume(id, req)
	if err != nil {
		return volume.Volume{}, err
	}
	return p.volumes.publish(ctx, id, v, making[volume.Volume]{data: p.makeEmpty})
}

// existing returns the volume of that name, if it is what the request asks for. The first call may
// have failed before its fsync, so existing syncs again.
func (p *Pool) existing(e *entry, req volume.CreateRequest) (volume.Volume, error) {
	if err := e.Value.damaged(); err != nil {
		return volume.Volume{}, err
	}
	v := p.volumeOf(e)
	if err := compatible(v, req); err != nil {
		return volume.Volume{}, err
	}
	return v, p.syncPlaced(p.volumes.dir)
}

// newVolume returns the volume that a request asks for, as it will be created now. Errors:
// ErrOutOfRange for the size; ErrNoSpace when its inodes cannot be limited.
func (p *Pool) newVolume(id volume.ID, req volume.CreateRequest) (volume.Volume, error) {
	bytes, err := req.Spec.Size(req.Size)
	if err == nil {
		err = p.checkInodes(req.Spec)
	}
	if err != nil {
		return volume.Volume{}, err
	}
	return volume.Volume{
		ID:            id,
		Name:          req.Name,
		Spec:          req.Spec,
		CapacityBytes: bytes,
		Created:       time.Now().UTC(),
		Owner:         req.Owner,
		Source:        req.Source,
	}, nil
}

// makeEmpty makes the data of a volume that is made from nothing.
func (p *Pool) makeEmpty(
	_ context.Context,
	d openat.Dir,
	v *volume.Volume,
) (f *os.File, err error) {
	f, v.QuotaID, err = p.backendOf(v.Spec).Make(d.File, v.Spec, v.CapacityBytes)
	return f, err
}

// checkInodes refuses an inode limit that the filesystem cannot enforce. The pool of that name on
// another node may be able to. Errors: ErrNoSpace.
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
func compatible(v volume.Volume, req volume.CreateRequest) error {
	switch {
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
