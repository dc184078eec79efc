package pool

import (
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// copySource is a volume or a snapshot that something is copied from. It is shared: nobody deletes
// it until release.
type copySource struct {
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
	// sharedBytes is the most bytes that a clone can share with the source, in addition to the bytes
	// that count for the source's own quota ID.
	sharedBytes int64
	// filesystemBytes is the size of the filesystem in an image.
	filesystemBytes int64
	// formatting: a filesystem was being made in an image.
	formatting bool
	release    func()
}

// shareSource finds what is to be copied, and shares it. Errors: ErrNotFound, ErrBusy while it is
// being made or deleted, ErrCorrupt.
func (p *Pool) shareSource(source volume.Source) (*copySource, error) {
	if id, ok := source.Snapshot(); ok {
		return p.shareSnapshot(id)
	}
	id, _ := source.Volume()
	return p.shareVolume(id)
}

// shareFitting is shareSource for a copy that is to be a volume. Errors: those of checkFits as
// well.
func (p *Pool) shareFitting(req volume.CreateRequest) (*copySource, error) {
	from, err := p.shareSource(req.Source)
	if err != nil {
		return nil, err
	}
	if err := from.checkFits(req.Spec, req.Size); err != nil {
		from.release()
		return nil, err
	}
	return from, nil
}

func (p *Pool) shareVolume(id volume.ID) (*copySource, error) {
	unshare, err := p.volumes.catalog.Share(id)
	if err != nil {
		return nil, err
	}
	v, err := p.Get(id)
	o := &copySource{
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

func (p *Pool) shareSnapshot(id volume.SnapshotID) (*copySource, error) {
	unshare, err := p.snapshots.catalog.Share(id)
	if err != nil {
		return nil, err
	}
	s, err := p.GetSnapshot(id)
	o := &copySource{
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

// open opens the directory, or releases the source.
func (s *copySource) open(parent openat.Dir, failed error) (*copySource, error) {
	err := failed
	if err == nil {
		s.dir, err = parent.OpenDir(s.id.Dir())
	}
	if err != nil {
		s.release()
		return nil, fmt.Errorf("copy %s: %w", s.id, err)
	}
	unshare := s.release
	s.release = func() { s.dir.Close(); unshare() }
	return s, nil
}

// checkFits says whether a volume of that specification and size can be made from it. Errors:
// ErrInvalid, ErrOutOfRange.
func (s *copySource) checkFits(spec volume.Spec, size volume.SizeRange) error {
	switch {
	case spec.IsImage() != s.spec.IsImage(), spec.FSType != s.spec.FSType:
		return fmt.Errorf(
			"%w: the source is %s%s: a directory, an image with a filesystem and a raw block volume are not made of one another",
			volume.ErrInvalid,
			s.id,
			s.spec.Differences(spec),
		)
	case spec.Type != s.spec.Type:
		return fmt.Errorf(
			"%w: %s is of type %s, asked for is one of type %s: a copy has the type of its source",
			volume.ErrInvalid,
			s.id,
			s.spec.Type,
			spec.Type,
		)
	case size.Required > 0 && size.Required < s.restoreBytes,
		size.Limit > 0 && size.Limit < s.restoreBytes:
		return fmt.Errorf(
			"%w: %s has %d bytes, asked for are %s: a copy is at least as large as its source",
			volume.ErrOutOfRange,
			s.id,
			s.restoreBytes,
			size,
		)
	default:
		return nil
	}
}
