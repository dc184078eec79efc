package pool

import (
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// copySource is a volume or a snapshot that something is copied from. It is shared: nobody deletes
// it until release.
type copySource struct {
	copying.Source

	// isLive: it is a volume, in which pods may be writing.
	isLive bool
	// created is when a volume was created.
	created time.Time
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

// shareFitting is shareSource for a copy that is to be a volume. Errors: those of
// copying.Source.CheckFits as well.
func (p *Pool) shareFitting(req volume.CreateRequest) (*copySource, error) {
	from, err := p.shareSource(req.Source)
	if err != nil {
		return nil, err
	}
	if err := from.CheckFits(req.Spec, req.Size); err != nil {
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
	s := &copySource{
		Source: copying.Source{
			Name: id, QuotaID: v.QuotaID, Spec: v.Spec, Bytes: v.CapacityBytes,
		},
		isLive:          true,
		created:         v.Created,
		sharedBytes:     v.SharedBytes,
		filesystemBytes: v.FilesystemBytes,
		formatting:      v.Formatting,
		release:         unshare,
	}
	return s.open(p.volumes.dir, id.Dir(), err)
}

func (p *Pool) shareSnapshot(id volume.SnapshotID) (*copySource, error) {
	unshare, err := p.snapshots.catalog.Share(id)
	if err != nil {
		return nil, err
	}
	v, err := p.GetSnapshot(id)
	s := &copySource{
		Source: copying.Source{
			Name: id, QuotaID: v.QuotaID, Spec: v.Spec, Bytes: v.RestoreBytes,
		},
		sharedBytes:     v.HeldBytes,
		filesystemBytes: v.FilesystemBytes,
		formatting:      v.Formatting,
		release:         unshare,
	}
	return s.open(p.snapshots.dir, id.Dir(), err)
}

// open opens the source's directory. If that fails, or something else has failed before, open
// releases the source.
func (s *copySource) open(parent openat.Dir, dirName string, failed error) (*copySource, error) {
	err := failed
	if err == nil {
		s.Dir, err = parent.OpenDir(dirName)
	}
	if err != nil {
		s.release()
		return nil, fmt.Errorf("copy %s: %w", s.Name, err)
	}
	unshare := s.release
	s.release = func() { s.Dir.Close(); unshare() }
	return s, nil
}
