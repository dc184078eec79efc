package pool

import (
	"context"
	"os"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend/detect"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Options says where a pool is and how it accounts. Every field but Name and Path may be zero.
type Options struct {
	// Name is what StorageClasses call the pool.
	Name string
	// Path is the pool's directory: absolute and clean.
	Path string
	// Overcommit is how many times the filesystem's size may be promised. 0 means 1: nothing is
	// oversold.
	Overcommit float64
	// ReserveBytes is what is never promised.
	ReserveBytes int64
	// RequireQuota refuses the pool unless its filesystem holds volumes to their sizes.
	RequireQuota bool
	// IgnoreQuota makes volumes without limits even where the filesystem could hold them to their
	// sizes.
	IgnoreQuota bool
	// RequireMountpoint refuses the pool unless Path is where a filesystem is mounted, so that a
	// missing disk never sends data to the filesystem below it.
	RequireMountpoint bool
	// Admit, if set, is asked whether the pool may be at the rest below an open directory, "" for
	// the directory itself, before anything is made or changed there.
	Admit func(d *os.File, rest string) error
	// Claim, if set, is asked whether the pool with that ID may be opened, before anything in it is
	// changed.
	Claim func(id volume.PoolID) error
	// MustExist refuses to make the directory: an absent one is ErrUnavailable and os.ErrNotExist.
	MustExist bool
	// WasOpen says that a pool was open at Path earlier in this process: none is made there, except
	// on a disk that is mounted there.
	WasOpen bool
	// TrashRetention is how long a deleted volume can still be taken out of trash/ by hand.
	TrashRetention time.Duration
	// AllowMultiNode accepts the multi-node access modes for volumes of the pool.
	AllowMultiNode bool
	// MaxCopies is how many snapshots, restores and clones are copied file by file at a time. 0
	// means DefaultMaxCopies.
	MaxCopies int
	// CopyBytesPerSecond holds all these copies together to a rate, so that pods keep their disk;
	// at least copytree.MaxChunk. 0 means that they are as fast as they can.
	CopyBytesPerSecond int64
	// Unlimit, if set, lifts the I/O limits of a volume that is about to be copied, and returns what
	// sets them again after the copy: what is in the page cache of its image is written before, and
	// its writers and other copies wait for that.
	Unlimit func(id volume.ID) (again func())
	// MaxSnapshotsPerVolume is how many snapshots one volume may have. 0 means any number.
	MaxSnapshotsPerVolume int
}

// DefaultMaxCopies lets a small copy pass a large one, and leaves most of a disk to the pods.
const DefaultMaxCopies = 2

// quotas is what the options want of the filesystem's quotas.
func (o Options) quotas() detect.Options {
	return detect.Options{RequireQuota: o.RequireQuota, IgnoreQuota: o.IgnoreQuota}
}

// checkFilesystem refuses a filesystem that does not do what the options require, before anything
// is made on it. Errors: ErrUnavailable.
func (o Options) checkFilesystem(ctx context.Context, d openat.Dir) error {
	if !o.RequireQuota {
		return nil
	}
	_, err := detect.Backend(ctx, d, o.quotas())
	return err
}

func (o Options) overcommit() float64 {
	if o.Overcommit == 0 {
		return 1
	}
	return o.Overcommit
}
