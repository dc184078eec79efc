package trash

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
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// yieldAfter is how many files of an entry are removed before the purge lets calls go first.
	// Entries with fewer files are purged without a pause, so that a busy pool's trash does not grow.
	yieldAfter = 256
	// longPolls is the number of polls, a minute in all, after which the log says that the purge lasts
	// long, and a quota ID is retired.
	longPolls = 120
)

// purge removes an entry and reports the result.
func (t *Trash) purge(ctx context.Context, e Entry) {
	if e.removed {
		t.giveBack(ctx, e)
		return
	}
	err := t.checkUnused(e)
	if err == nil {
		err = t.remove(ctx, &e)
	}
	log := klog.FromContext(ctx)
	switch {
	case err == nil && e.QuotaID != 0: // it is retired
		t.retired.Add(1)
		e.removed = true
		log.Info("Something else counts for the project ID of a deleted volume or snapshot: files of "+
			"other volumes that a pod has given this ID (csi-hostpath recharge finds them), or deleted "+
			"files that a process has open (lsof +L1 shows them)", "pool", t.Pool, "entry", e.path(),
			"quotaID", e.QuotaID)
		t.giveBack(ctx, e)
	case err == nil:
		t.Purged(ctx, e)
	case errors.Is(err, backend.ErrPending):
		if e.polls == longPolls {
			log.Info("Deleted data still occupies its space: a process may have a file of it open "+
				"(lsof +L1 shows which)", "pool", t.Pool, "entry", e.path(), "err", err)
		}
		t.queue.poll(e)
	case ctx.Err() != nil: // the next start goes on from here
	default:
		retryIn := t.RetryAfter
		if errors.Is(err, unix.ENOSPC) {
			retryIn = min(retryIn, retryOnFullDisk)
		}
		log.Error(err, "Deleted data could not be purged; its space stays occupied, and the purge is "+
			"tried again", "pool", t.Pool, "entry", e.path(), "retryIn", retryIn)
		t.queueFailed(e, retryIn)
	}
}

// checkUnused refuses an entry that is in use: a mount shows the entry or part of it, or a loop
// device has its image. It is the last check before data is removed, and does not rely on what
// callers told the driver. Errors: ErrInUse.
func (t *Trash) checkUnused(e Entry) error {
	mounts, err := t.mounts.readAfter(e.lookAfter)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		rest, ours := t.Location.Below(m)
		if path := e.path(); ours && (rest == path || strings.HasPrefix(rest, path+"/")) {
			return fmt.Errorf("%w: it is mounted at %s: unmount it", volume.ErrInUse, m.Point)
		}
	}
	return t.CheckDetached(e.In, e.Name)
}

// remove removes the data, gives back what counted for it, and removes the record last. Errors:
// backend.ErrPending.
func (t *Trash) remove(ctx context.Context, e *Entry) error {
	r := t.newRemover()
	if err := t.removeData(ctx, r, e); err != nil {
		return err
	}
	failpoint.Here("purge.data-removed")
	// The data is removed first: without the limit, a purge of many files would be slower, and an ID
	// that still counts files must not be given to a new volume.
	if _, err := t.release(e); err != nil {
		return err
	}
	if e.Uncharge != nil {
		if err := e.Uncharge(); err != nil {
			return err
		}
		e.Uncharge = nil
	}
	failpoint.Here("purge.released")
	return r.Remove(ctx, e.In, e.Name)
}

// release gives back the quota ID of an entry whose data is removed. If something else counts for
// the ID for long, release retires the ID, and returns the bytes that count. Errors:
// backend.ErrPending.
func (t *Trash) release(e *Entry) (leftBytes int64, err error) {
	err = t.Backend.Release(e.QuotaID)
	if err == nil {
		e.QuotaID = 0 // from here on the ID can be another volume's
		return 0, nil
	}
	retirer, ok := t.Backend.(backend.Retirer)
	if ok && errors.Is(err, backend.ErrPending) && (e.removed || e.polls >= longPolls) {
		return retirer.Retire(e.QuotaID)
	}
	return 0, err
}

// giveBack gives back what does not count any more for the retired quota ID of a removed entry. The
// entry stays in the queue as long as something counts.
func (t *Trash) giveBack(ctx context.Context, e Entry) {
	left, err := t.release(&e)
	if err != nil {
		klog.FromContext(ctx).Error(err, "What counts for the quota ID of a deleted volume is unknown",
			"pool", t.Pool, "quotaID", e.QuotaID)
		left = e.Bytes
	}
	if err == nil && e.QuotaID == 0 {
		t.retired.Add(-1)
		t.Purged(ctx, e)
		return
	}
	free := e
	free.Bytes = max(0, e.Bytes-left)
	if free.Bytes > 0 {
		t.Purged(ctx, free)
	}
	e.Bytes -= free.Bytes
	e.dueAt(time.Now().Add(retiredPoll))
	t.queue.add(e)
}

// removeData removes all but the record.
func (t *Trash) removeData(ctx context.Context, r *openat.Remover, e *Entry) error {
	d, err := e.In.OpenUnmounted(e.Name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // somebody has removed it, or it is not from here
	case err != nil:
		return err
	}
	defer d.Close()
	if err := t.markBegun(e, d); err != nil {
		return err
	}
	if err := t.Backend.Discard(d); err != nil {
		return err
	}
	return r.Empty(ctx, d, t.Records...)
}

// newRemover returns a remover that lets calls go first when there is much to remove.
func (t *Trash) newRemover() *openat.Remover {
	removed := 0
	return openat.NewRemover(func(ctx context.Context) error {
		if removed++; removed <= yieldAfter {
			return nil
		}
		return t.Yield(ctx)
	})
}

// mountTable is the mount table as it was read last, for many purges: it grows with the number of
// mounts.
type mountTable struct {
	mu     sync.Mutex
	read   time.Time
	mounts []mount.Mount
}

// readAfter is a mount table that was read after a time.
func (t *mountTable) readAfter(earliest time.Time) ([]mount.Mount, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.read.After(earliest) {
		return t.mounts, nil
	}
	now := time.Now()
	mounts, err := mount.Table()
	if err != nil {
		return nil, err
	}
	t.read, t.mounts = now, mounts
	return mounts, nil
}
