package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/pkg/workers"
)

const (
	// auditInterval is the least time between two audits of a volume.
	auditInterval = time.Hour
	// auditPasses is how often a volume is looked at before it is called overcharged: what its pod
	// does meanwhile may look like that, but hardly twice.
	auditPasses = 2
	// maxAudited bounds how many files an audit looks at.
	maxAudited = 1_000_000
	// auditedPart of a volume's size is too little to tell: 1/16.
	auditedPart = 16
	// fullSlack is how far a volume may be from its size when its writers get errors, in bytes, or
	// fullPart of its size.
	fullSlack = 64 << 10
	fullPart  = 64
)

// audits find out whether a volume is full because files of others count for it: the owner of a
// file may give it any project ID, and nothing cheap says which files count for one. So only full
// volumes are looked at, one at a time.
type audits struct {
	pool    *Pool
	auditor backend.Auditor
	ctx     context.Context //nolint:containedctx // the life of the pool
	stop    context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	busy bool
	last map[volume.ID]audit
}

// audit is what the last audit of a volume has found.
type audit struct {
	at          time.Time
	overcharged bool
}

func startAudits(ctx context.Context, p *Pool) *audits {
	auditor, ok := p.backend.(backend.Auditor)
	if !ok {
		return nil
	}
	return newAudits(ctx, p, auditor)
}

func newAudits(ctx context.Context, p *Pool, auditor backend.Auditor) *audits {
	a := &audits{pool: p, auditor: auditor, last: make(map[volume.ID]audit)}
	a.ctx, a.stop = context.WithCancel(context.WithoutCancel(ctx))
	return a
}

// close ends the audit that is under way, and waits for it.
func (a *audits) close() {
	if a == nil {
		return
	}
	a.mu.Lock()
	a.busy = true // no other begins
	a.mu.Unlock()
	a.stop()
	a.running.Wait()
}

// overcharged lists the full volumes for which more counts than their files, in no order. A volume
// whose usage nobody has asked for since is left out.
func (a *audits) overcharged() (ids []volume.ID) {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.last, func(id volume.ID, last audit) bool {
		_, err := a.pool.Get(id)
		return err != nil || time.Since(last.at) > 2*auditInterval
	})
	for id, last := range a.last {
		if last.overcharged {
			ids = append(ids, id)
		}
	}
	return ids
}

// isOvercharged says whether overcharged lists a volume that exists.
func (a *audits) isOvercharged(id volume.ID) bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.last[id]
	return last.overcharged && time.Since(last.at) <= 2*auditInterval
}

// note begins an audit of a volume that is full. data is an O_PATH descriptor of the volume's data.
func (a *audits) note(v Volume, data *os.File, u volume.Usage) {
	if a == nil {
		return
	}
	if !isFull(u) {
		a.clear(v.ID)
		return
	}
	if !a.begin(v.ID) {
		return
	}
	readable, err := openat.Reopen(data, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		a.end(v.ID, false)
		return
	}
	go func() {
		defer workers.LowerPriority()()
		found, err := a.audit(v, readable)
		readable.Close()
		isOver := err == nil && isMuch(found, u)
		a.report(v, found, isOver, err)
		a.end(v.ID, isOver)
	}()
}

// isFull says whether writers of the volume may get errors.
func isFull(u volume.Usage) bool {
	return u.UsedBytes >= u.TotalBytes-max(fullSlack, u.TotalBytes/fullPart) ||
		u.UsedInodes >= u.TotalInodes-u.TotalInodes/fullPart
}

// isMuch says whether the overcharge is more than what a pod changes during an audit.
func isMuch(o backend.Overcharge, u volume.Usage) bool {
	return o.Bytes > max(fullSlack, u.TotalBytes/auditedPart) || o.Inodes > u.TotalInodes/auditedPart
}

// clear: a volume with room is not overcharged. It is audited again when it is full, but not before
// the interval has ended.
func (a *audits) clear(id volume.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last := a.last[id]; last.overcharged {
		a.last[id] = audit{at: last.at}
	}
}

// begin says whether the caller has to audit the volume now, and then call end.
func (a *audits) begin(id volume.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, known := a.last[id]
	if a.busy || known && time.Since(last.at) < auditInterval {
		return false
	}
	a.busy = true
	a.running.Add(1)
	return true
}

func (a *audits) end(id volume.ID, overcharged bool) {
	defer a.running.Done()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy = a.ctx.Err() != nil // no other begins after close
	a.last[id] = audit{at: time.Now(), overcharged: overcharged}
}

// audit returns the least overcharge of some passes.
func (a *audits) audit(v Volume, data *os.File) (least backend.Overcharge, err error) {
	for pass := range auditPasses {
		if _, err := data.Seek(0, io.SeekStart); err != nil {
			return backend.Overcharge{}, err
		}
		files := 0
		found, err := a.auditor.Overcharge(data, v.QuotaID, func() error {
			if files++; files > maxAudited {
				return fmt.Errorf("it has more than %d files", maxAudited)
			}
			_, err := a.pool.calls.Yield(a.ctx)
			return err
		})
		if err != nil {
			return backend.Overcharge{}, err
		}
		if pass > 0 {
			found.Bytes, found.Inodes = min(found.Bytes, least.Bytes), min(found.Inodes, least.Inodes)
		}
		least = found
	}
	return least, nil
}

func (a *audits) report(v Volume, found backend.Overcharge, isOver bool, err error) {
	log := klog.FromContext(a.ctx).WithValues("pool", v.PoolName(), "volumeID", v.ID)
	switch {
	case errors.Is(err, errors.ErrUnsupported), a.ctx.Err() != nil:
	case err != nil:
		log.Info("A volume is full, and it is not known whether files of others count for it: "+
			"csi-hostpath recharge finds out", "err", err)
	case isOver:
		log.Error(nil, "A volume is full, and more counts for its project ID than its files: files of "+
			"other volumes that a pod has given this ID (csi-hostpath recharge finds them, and gives the "+
			"volume its room back), or deleted files that a process has open (lsof +L1 shows them)",
			"quotaID", v.QuotaID, "bytes", found.Bytes, "files", found.Inodes)
	}
}
