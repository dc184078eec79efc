package pool

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// copySource is a volume or a snapshot that something is copied from. It is under a shared lock:
// nobody deletes it until release. Else "shared" means blocks: sharedBytes.
type copySource struct {
	copying.Source

	pool *Pool // that has it
	// isLive: it is a volume, in which pods may be writing.
	isLive bool
	// volume is its ID, and created is when it was created. Neither is set for a snapshot.
	volume  volume.ID
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

// lockFitting finds the source of a new volume, and locks it. Errors: ErrNotFound, ErrBusy while
// it is being made or deleted, ErrCorrupt, and those of copying.Source.CheckFits.
func (p *Pool) lockFitting(req volume.CreateRequest) (from *copySource, err error) {
	if id, ok := req.Source.Snapshot(); ok {
		from, err = p.lockSourceSnapshot(id)
	} else {
		id, _ := req.Source.Volume()
		from, err = p.lockSourceVolume(id)
	}
	if err != nil {
		return nil, err
	}
	if err := from.CheckFits(req.Spec.DecideAs(from.Spec), req.Size); err != nil {
		from.release()
		return nil, err
	}
	return from, nil
}

func (p *Pool) lockSourceVolume(id volume.ID) (*copySource, error) {
	limited := false
	from, err := p.volumes.lockSource(id, func(v volume.Volume) *copySource {
		limited = !v.Mutable.IO.IsNone()
		return &copySource{
			pool:            p,
			Source:          copying.Source{QuotaID: v.QuotaID, Spec: v.Spec, Bytes: v.CapacityBytes},
			isLive:          true,
			volume:          v.ID,
			created:         v.Created,
			sharedBytes:     v.SharedBytes,
			filesystemBytes: v.FilesystemBytes,
			formatting:      v.Formatting,
		}
	})
	if err == nil && limited && p.opts.Unlimit != nil {
		again, release := p.opts.Unlimit(id), from.release
		from.release = func() { release(); again() }
	}
	return from, err
}

func (p *Pool) lockSourceSnapshot(id volume.SnapshotID) (*copySource, error) {
	return p.snapshots.lockSource(id, func(s volume.Snapshot) *copySource {
		return &copySource{
			pool:            p,
			Source:          copying.Source{QuotaID: s.QuotaID, Spec: s.Spec, Bytes: s.RestoreBytes},
			sharedBytes:     s.HeldBytes,
			filesystemBytes: s.FilesystemBytes,
			formatting:      s.Formatting,
		}
	})
}

// lockSource takes the shared lock of an ID, finds what has the ID, and opens its directory.
func (k *kind[V]) lockSource(id poolMember, sourceOf func(V) *copySource) (*copySource, error) {
	unlock, err := k.catalog.LockShared(id)
	if err != nil {
		return nil, err
	}
	var dir openat.Dir
	e, err := k.find(id)
	if err == nil {
		dir, err = k.dir.OpenUnmounted(id.Dir())
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("copy %s: %w", id, err)
	}
	s := sourceOf(k.unpack(e))
	s.Name, s.Dir = id, dir
	s.release = func() { dir.Close(); unlock() }
	return s, nil
}

// contentBytes returns about how many bytes of the disk the source occupies; 0 where nobody counts
// them. It costs a few system calls, whatever the source holds.
func (s *copySource) contentBytes() int64 {
	counter, ok := s.pool.backendOf(s.Spec).(backend.Counter)
	if !ok {
		if s.isLive {
			return 0
		}
		return s.sharedBytes // what the snapshot holds was counted when it was made
	}
	data, err := backend.OpenData(s.Dir, unix.O_PATH)
	if err != nil {
		return 0
	}
	defer data.Close()
	bytes, err := counter.Allocated(data, s.QuotaID)
	if err != nil {
		return 0
	}
	return bytes
}
