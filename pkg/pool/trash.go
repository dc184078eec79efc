package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// purge removes an entry of trash/ and gives its space back; not before.
func (p *Pool) purge(ctx context.Context, d discarded) {
	err := p.checkUnmounted(d)
	if err == nil {
		err = p.removeDiscarded(ctx, &d)
	}
	switch {
	case err == nil:
		p.ledger.purged(d.bytes)
		if d.uncounted {
			p.measureForeignAgain(ctx)
		}
	case errors.Is(err, backend.ErrPending):
		if d.polls == longWait {
			klog.FromContext(ctx).Info("Deleted data still takes its space: a process may have a file of it open (lsof +L1 shows which)",
				"pool", p.opts.Name, "entry", d.name, "err", err)
		}
		p.purger.wait(d)
	case ctx.Err() != nil: // the next start goes on from here
	default:
		klog.FromContext(ctx).Error(err, "Deleted data could not be purged; its space stays taken, and the purge is tried again",
			"pool", p.opts.Name, "entry", d.name, "retryIn", p.purger.retryAfter)
		p.purger.retry(d)
	}
}

// checkUnmounted is the last guard of the data: as long as a mount anywhere shows an entry of the trash, or part of it, somebody uses
// it, whatever the driver was told. Errors: ErrInUse.
func (p *Pool) checkUnmounted(d discarded) error {
	mounts, err := p.mounts.since(d.lookAfter)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		rest, ours := p.location.Below(m)
		if entry := trashDir + "/" + d.name; ours && (rest == entry || strings.HasPrefix(rest, entry+"/")) {
			return fmt.Errorf("%w: it is mounted at %s: unmount it", volume.ErrInUse, m.Point)
		}
	}
	return p.checkDetached(p.parent(d), d.name)
}

// parent is the directory that an entry is in.
func (p *Pool) parent(d discarded) dir {
	if d.unmoved {
		return p.tmp
	}
	return p.trash
}

// mountSnapshot is the mount table as it was read last, for many purges: it grows with the number of mounts.
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

// removeDiscarded removes the record last: as long as there is data, the next start has to know how much was promised to it, and
// as long as there is a quota, whose that is. Errors: backend.ErrPending.
func (p *Pool) removeDiscarded(ctx context.Context, thrown *discarded) error {
	r, parent := newRemover(ctx, &p.foreground), p.parent(*thrown)
	entry := dirent{name: thrown.name}
	d, err := openNoMount(parent, thrown.name)
	switch {
	case err == nil:
		defer d.Close()
		entry.isDir = true
		err = p.removeData(r, d)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // gone, or not from here
		err = nil
	}
	if err != nil {
		return err
	}
	failpoint.Here("purge.data-removed")
	// Only now: with the limit gone, a purge of many files would be slower, and an ID that still counts files must not be given out.
	if err := p.backend.Release(thrown.tag); err != nil {
		return err
	}
	thrown.tag = 0 // from here on it can be another volume's
	if err := p.letGo(thrown); err != nil {
		return err
	}
	failpoint.Here("purge.released")
	return r.remove(parent, entry, 0)
}

// removeData removes all but the record.
func (p *Pool) removeData(r *remover, d dir) error {
	if err := p.backend.Discard(d.File); err != nil {
		return err
	}
	return r.empty(d)
}

// discard moves a volume's or a snapshot's bytes in the ledger to the trash, and says what is to be purged there.
func (p *Pool) discard(thrown string, bytes int64, quotaID uint64) discarded {
	p.ledger.discard(bytes)
	d := discarded{name: thrown, bytes: bytes, tag: backend.Tag(quotaID)}
	d.dueAt(time.Now().Add(max(purgeDelay, p.opts.TrashRetention)))
	return d
}

// queue hands an entry of trash/ to the purger: at once if its rename is durable, else later, as a purge that failed.
func (p *Pool) queue(d discarded, failed error) {
	if failed != nil {
		p.purger.retry(d)
		return
	}
	p.purger.add(d)
}

// scanTrash queues what earlier deletes left. What an entry's record promised still counts, because the data still fills the disk, and
// its quota is nobody else's yet. What was never finished is kept for nobody: half a snapshot may keep blocks that count for its volume.
func (p *Pool) scanTrash(ctx context.Context, unfinished []string) error {
	// Opened anew: what emptyTmp has moved here since the pool's own descriptor was opened is not read through that on btrfs.
	trash, err := p.root.openDir(trashDir)
	if err != nil {
		return err
	}
	defer trash.Close()
	names, err := trash.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read %s/: %w", trashDir, err)
	}
	for _, name := range names {
		d := discarded{name: name}
		d.dueAt(time.Now().Add(max(purgeDelay, p.retained(name, unfinished))))
		v, isVolume := p.recognize(ctx, &d)
		d.tag = p.holdDiscarded(name, d.tag)
		if isVolume && (d.tag != 0 || v.Spec.IsImage()) { // else its tag is another volume's
			p.ledger.addUnwritten(p.unwrittenOf(trash, name, v))
		}
		p.ledger.addTrash(d.bytes)
		p.purger.add(d)
	}
	return nil
}

// recognize reads the record of an entry of trash/, a volume's or a snapshot's, for what it was promised and counted under. Without one
// nobody knows. It returns a volume's.
func (p *Pool) recognize(ctx context.Context, d *discarded) (_ volume.Volume, isVolume bool) {
	if v, err := p.readRecord(p.trash, d.name, withoutSuffix(d.name)); err == nil {
		d.bytes, d.tag = v.PromisedBytes(), backend.Tag(v.QuotaID)
		return v, true
	}
	dirName, ok := strings.CutPrefix(withoutSuffix(d.name), snapshotEntryPrefix)
	s, err := p.readSnapshot(p.trash, d.name, dirName)
	if !ok || err != nil { // half a volume or snapshot
		d.uncounted = true
		return volume.Volume{}, false
	}
	d.bytes, d.tag = s.HeldBytes, backend.Tag(s.QuotaID)
	d.keeps = keptBy(s)
	p.snapshotIndex.keep(d.keeps, d.bytes)
	if err := p.relimit(s.Source); err != nil { // it was adopted before anybody knew
		klog.FromContext(ctx).Error(err, "The size of a volume is not what its snapshots need", "pool", p.opts.Name, "volumeID", s.Source)
	}
	return volume.Volume{}, false
}

// holdDiscarded is 0 for an entry whose quota is another volume's: a crash came after the release.
func (p *Pool) holdDiscarded(name string, tag backend.Tag) backend.Tag {
	d, err := openNoMount(p.trash, name)
	if err != nil {
		return 0
	}
	defer d.Close()
	return p.backend.Hold(d.File, tag)
}

// retained is how long an entry is still kept.
func (p *Pool) retained(name string, unfinished []string) time.Duration {
	if slices.Contains(unfinished, name) {
		return 0
	}
	// A clock that was ahead when the entry was thrown in must not keep it for longer.
	return p.opts.TrashRetention - max(0, time.Since(p.thrownAt(name)))
}

// thrownAt is when an entry came to the trash: rename(2) sets the change time of what it moves.
func (p *Pool) thrownAt(name string) time.Time {
	var st unix.Stat_t
	if err := unix.Fstatat(p.trash.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return time.Time{}
	}
	return time.Unix(st.Ctim.Unix())
}
