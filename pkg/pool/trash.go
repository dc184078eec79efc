package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// purge removes what is discarded and gives its space back; not before.
func (p *Pool) purge(ctx context.Context, d discarded) {
	err := p.checkUnmounted(d)
	if err == nil {
		err = p.removeDiscarded(ctx, &d)
	}
	switch {
	case err == nil:
		p.ledger.Purged(d.bytes)
		if d.uncounted {
			p.measureForeignAgain(ctx)
		}
	case errors.Is(err, backend.ErrPending):
		if d.polls == longWait {
			klog.FromContext(
				ctx,
			).Info(
				"Deleted data still takes its space: a process may have a file of it open (lsof +L1 shows which)",
				"pool",
				p.opts.Name,
				"entry",
				d.path(),
				"err",
				err,
			)
		}
		p.purger.wait(d)
	case ctx.Err() != nil: // the next start goes on from here
	default:
		klog.FromContext(ctx).Error(err,
			"Deleted data could not be purged; its space stays taken, and the purge is tried again", "pool",
			p.opts.Name, "entry", d.path(), "retryIn", p.purger.retryAfter)
		p.purger.retry(d)
	}
}

// checkUnmounted is the last guard of the data: as long as a mount anywhere shows what is
// discarded, or part of it, somebody uses it, whatever the driver was told. Errors: ErrInUse.
func (p *Pool) checkUnmounted(d discarded) error {
	mounts, err := p.mounts.since(d.lookAfter)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		rest, ours := p.location.Below(m)
		if entry := d.path(); ours && (rest == entry || strings.HasPrefix(rest, entry+"/")) {
			return fmt.Errorf("%w: it is mounted at %s: unmount it", volume.ErrInUse, m.Point)
		}
	}
	return p.checkDetached(d.at, d.name)
}

// mountSnapshot is the mount table as it was read last, for many purges: it grows with the number
// of mounts.
type mountSnapshot struct {
	mu     sync.Mutex
	taken  time.Time
	mounts []mount.Mount
}

// since is a mount table that was read after a time.
func (s *mountSnapshot) since(earliest time.Time) ([]mount.Mount, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken.After(earliest) {
		return s.mounts, nil
	}
	now := time.Now()
	mounts, err := mount.Table()
	if err != nil {
		return nil, err
	}
	s.taken, s.mounts = now, mounts
	return mounts, nil
}

// removeDiscarded removes the record last: as long as there is data, the next start has to know how
// much was promised to it, and as long as there is a quota, whose that is. Errors:
// backend.ErrPending.
func (p *Pool) removeDiscarded(ctx context.Context, thrown *discarded) error {
	r := newRemover(&p.calls)
	d, err := thrown.at.OpenUnmounted(thrown.name)
	switch {
	case err == nil:
		defer d.Close()
		err = p.removeData(ctx, r, d)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		// gone, or not from here
		err = nil
	}
	if err != nil {
		return err
	}
	failpoint.Here("purge.data-removed")
	// Only now: with the limit gone, a purge of many files would be slower, and an ID that still
	// counts files must not be given out.
	if err := p.backend.Release(thrown.quotaID); err != nil {
		return err
	}
	thrown.quotaID = 0 // from here on it can be another volume's
	if err := p.unchargePurged(thrown); err != nil {
		return err
	}
	failpoint.Here("purge.released")
	return r.Remove(ctx, thrown.at, thrown.name)
}

// removeData removes all but the record.
func (p *Pool) removeData(ctx context.Context, r *openat.Remover, d openat.Dir) error {
	if err := p.backend.Discard(d.File); err != nil {
		return err
	}
	return r.Empty(ctx, d, record.VolumeFile, record.SnapshotFile)
}

// discard moves a volume's or a snapshot's bytes in the ledger to the trash, and says when it is to
// be purged.
func (p *Pool) discard(d discarded, bytes int64, quotaID volume.QuotaID) discarded {
	p.ledger.MoveToTrash(bytes)
	d.bytes, d.quotaID = bytes, quotaID
	keep := p.opts.TrashRetention
	if d.at != p.trash { // on a full disk nothing is kept
		keep = 0
	}
	d.dueAt(time.Now().Add(max(purgeDelay, keep)))
	return d
}

// queue hands what was taken away to the purger: at once if that is durable, else later, as a purge
// that failed.
func (p *Pool) queue(d discarded, failed error) {
	if failed != nil {
		p.purger.retry(d)
		return
	}
	p.purger.add(d)
}

// scanTrash lists what earlier deletes left.
func (p *Pool) scanTrash() (left []discarded, err error) {
	names, err := p.trash.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read %s/: %w", trashDir, err)
	}
	for _, name := range names {
		d := discarded{at: p.trash, name: name}
		d.dueAt(time.Now().Add(max(purgeDelay, p.retained(name))))
		left = append(left, d)
	}
	return left, nil
}

// scanTmp lists what a crash left unfinished. That is kept for nobody: half a snapshot may keep
// blocks that count for its volume.
func (p *Pool) scanTmp() (left []discarded, err error) {
	names, err := p.tmp.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read %s/: %w", tmpDir, err)
	}
	for _, name := range names {
		d := discarded{at: p.tmp, name: name}
		d.dueAt(time.Now().Add(purgeDelay))
		left = append(left, d)
	}
	return left, nil
}

// requeue queues what an earlier process discarded. What its record promised still counts, because
// the data still fills the disk, and its quota is nobody else's yet.
func (p *Pool) requeue(ctx context.Context, d discarded) {
	v, isVolume := p.recognize(ctx, &d)
	d.quotaID = p.holdDiscarded(d)
	if isVolume && (d.quotaID != 0 || v.Spec.IsImage()) { // else its quota ID is another volume's
		p.foreign.addUnwritten(p.unwrittenOf(d.at, d.name, v))
	}
	p.ledger.AddTrash(d.bytes)
	p.purger.add(d)
}

// recognize reads the record of what is discarded, a volume's or a snapshot's, for what it was
// promised and counted under. Without one nobody knows. It returns a volume's.
func (p *Pool) recognize(ctx context.Context, d *discarded) (_ volume.Volume, isVolume bool) {
	dirName := d.name
	if d.at == p.trash || d.at == p.tmp {
		dirName = withoutSuffix(d.name)
	}
	if v, err := p.volumes.read(d.at, d.name, dirName); err == nil {
		d.bytes, d.quotaID = v.PromisedBytes(), v.QuotaID
		return v, true
	}
	s, err := p.snapshots.read(d.at, d.name, strings.TrimPrefix(dirName, snapshotPrefix))
	if err != nil { // half a volume or snapshot
		d.uncounted = true
		return volume.Volume{}, false
	}
	e := entryOfSnapshot(s)
	d.bytes, d.quotaID = e.Value.promisedBytes, s.QuotaID
	d.keeps = p.accountOf(e)
	p.charges.charge(d.keeps, d.bytes)
	if err := p.applyCharges(s.Source); err != nil { // it was adopted before anybody knew
		klog.FromContext(
			ctx,
		).Error(err, "The size of a volume is not what its snapshots need", "pool", p.opts.Name,
			"volumeID", s.Source)
	}
	return volume.Volume{}, false
}

// holdDiscarded is 0 for what has a quota that is another volume's: a crash came after the release.
func (p *Pool) holdDiscarded(d discarded) volume.QuotaID {
	f, err := d.at.OpenUnmounted(d.name)
	if err != nil {
		return 0
	}
	defer f.Close()
	return p.backend.ReserveQuotaID(f.File, d.quotaID)
}

// retained is how long an entry is still kept.
func (p *Pool) retained(name string) time.Duration {
	// A clock that was ahead when the entry was thrown in must not keep it for longer.
	return p.opts.TrashRetention - max(0, time.Since(p.thrownAt(name)))
}

// thrownAt is when an entry came to the trash: rename(2) sets the change time of what it moves.
func (p *Pool) thrownAt(name string) time.Time {
	var st unix.Stat_t
	if err := unix.Fstatat(p.trash.FD(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return time.Time{}
	}
	return time.Unix(st.Ctim.Unix())
}
