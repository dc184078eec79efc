package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// maxTogether bounds how long snapshots are made until all of them are of one transaction. One try
// takes as long as two commits: 20 to 200 ms on a solid-state disk.
const maxTogether = 15 * time.Second

// SnapshotTogether implements backend.Cloner.
//
// Snapshots whose ioctls join one transaction are made together in its commit, at a step at which
// the transaction has no other writers: btrfs_commit_transaction calls create_pending_snapshots
// (fs/btrfs/transaction.c) once num_writers is 1, and after the data that fast fsyncs have logged
// in that transaction is in the trees (pending_ordered). What is fsynced later belongs to the next
// transaction. So a snapshot lacks nothing that was durable before something that another one has.
//
// Nothing makes ioctls join one transaction. But while a commit is under way, they join the next
// transaction, whose own commit has to wait (TRANS_STATE_COMMIT_PREP, Linux 6.6). So a commit is
// started first, and the ioctls are called in parallel. The transaction of each snapshot is in its
// root item (otransid). If they differ, the snapshots are destroyed and made again.
func (b *Btrfs) SnapshotTogether(
	ctx context.Context, sources []backend.Source, dirs []openat.Dir,
) ([]backend.Clone, error) {
	t := together{b: b, all: make([]one, len(sources))}
	defer t.close()
	err := t.open(sources, dirs)
	if err == nil {
		err = t.snapshot(ctx)
	}
	if err != nil {
		err = errors.Join(err, t.destroy())
	}
	return t.describe(err)
}

// together are the snapshots that are made at one moment.
type together struct {
	b   *Btrfs
	all []one
}

// one is one of them.
type one struct {
	source  backend.Source
	dir     openat.Dir
	of      *os.File
	quotaID volume.QuotaID
	made    bool
}

// open opens the sources, and makes a quota group for each snapshot.
func (t together) open(sources []backend.Source, dirs []openat.Dir) (err error) {
	for i := range t.all {
		s := &t.all[i]
		s.source, s.dir = sources[i], dirs[i]
		if s.of, err = t.b.openSource(s.source); err != nil {
			return err
		}
		if s.quotaID, err = t.b.newGroup(volume.MaxCapacityBytes); err != nil {
			return err
		}
	}
	return nil
}

// snapshot makes the snapshots, again and again until all are of one transaction. Errors: ErrBusy
// when that takes too long; the context's cause.
func (t together) snapshot(ctx context.Context) error {
	begin := time.Now()
	for tries := 1; ; tries++ {
		_ = t.b.startSync() // if it fails, the snapshots fail too
		if err := t.try(); err != nil {
			return err
		}
		same, err := t.ofOneTransaction()
		if err != nil {
			return err
		}
		took := time.Since(begin)
		if same {
			klog.FromContext(ctx).V(1).Info("Snapshots were made in one transaction", "snapshots",
				len(t.all), "tries", tries, "took", took)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if took > maxTogether {
			return fmt.Errorf("%w: btrfs has not made %d snapshots in one transaction in %d tries within "+
				"%s: try again when the disk is less busy (Linux 6.6 and newer need few tries)",
				volume.ErrBusy, len(t.all), tries, maxTogether)
		}
		if err := t.destroy(); err != nil {
			return err
		}
	}
}

// try calls all ioctls at the same time.
func (t together) try() error {
	errs := make([]error, len(t.all))
	var calls sync.WaitGroup
	for i := range t.all {
		calls.Go(func() {
			s := &t.all[i]
			errs[i] = createSnapshot(s.dir.File, s.of.Name(), s.of, group(s.quotaID), readOnly)
			s.made = errs[i] == nil
		})
	}
	calls.Wait()
	err := errors.Join(errs...)
	if errors.Is(err, unix.EXDEV) { // another filesystem
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}

// ofOneTransaction reports whether all snapshots were made in the same transaction.
func (t together) ofOneTransaction() (bool, error) {
	var first uint64
	for i, s := range t.all {
		transaction, err := madeIn(s.dir, s.of.Name())
		if err != nil {
			return false, err
		}
		if i == 0 {
			first = transaction
		}
		if transaction != first {
			return false, nil
		}
	}
	return true, nil
}

// madeIn returns the transaction in which a subvolume was made.
func madeIn(dir openat.Dir, name string) (uint64, error) {
	f, err := dir.OpenUnmounted(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var info subvolumeInfo
	err = ioctl(f.File, iocGetSubvolInfo, "read the transaction of a snapshot", &info)
	return info.otransid, err
}

// destroy removes the snapshots that were made.
func (t together) destroy() error {
	var errs []error
	for i := range t.all {
		if s := &t.all[i]; s.made {
			errs = append(errs, t.b.fs.destroy(s.dir, s.of.Name()))
			s.made = false
		}
	}
	return errors.Join(errs...)
}

// describe returns the snapshots; after an error only their quota IDs.
func (t together) describe(failed error) ([]backend.Clone, error) {
	clones := make([]backend.Clone, len(t.all))
	for i, s := range t.all {
		if failed == nil {
			clones[i], failed = t.b.describe(s.source.QuotaID, s.dir)
		}
		clones[i].QuotaID = s.quotaID
	}
	if failed != nil {
		for i := range clones {
			if clones[i].Data != nil {
				clones[i].Data.Close()
				clones[i].Data = nil
			}
		}
	}
	return clones, failed
}

func (t together) close() {
	for _, s := range t.all {
		if s.of != nil {
			s.of.Close()
		}
	}
}
