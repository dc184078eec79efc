package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// poolRetry is how often a pool that could not be opened is tried again: an operator who has
// mounted the disk need not restart the driver.
const poolRetry = 5 * time.Second

// openingTime is how long sidecars wait for a pool that is being opened. A pool with 100,000
// volumes takes seconds.
const openingTime = time.Minute

var errOpening = volume.Because(volume.ReasonOpening,
	fmt.Errorf("%w: it is being opened", volume.ErrUnavailable))

// poolSet holds the configured pools. Each is open or has an error that says why not.
type poolSet struct {
	kubeletDir   string
	defaultPool  string
	publications *nodeserver.Publications
	limiter      *iolimit.Limiter
	retry        time.Duration // poolRetry, except in tests
	changes      signal        // of the mount table
	calls        callEpoch     // the calls that may use a pool

	mu    sync.RWMutex
	slots []*poolSlot // in the order of the configuration
	// closing are the displaced pools that were not closed when the driver had to stop.
	closing []*pool.Pool

	openingEnds time.Time // see stillOpening

	asking *stuck.Calls // questions about pools that are not open or displaced, by their paths
	// askingStatus are questions about open pools, which the pages and Probe wait for.
	askingStatus *stuck.Calls
	uses         uses
}

// statusPatience is less than answerTimeout.
const statusPatience = 3 * time.Second

// poolSlot is one configured pool: exactly one of pool and err is nil.
type poolSlot struct {
	config config.Pool
	pool   *pool.Pool
	err    error
	// hangs is set while the filesystems on the way to the open pool do not answer. Calls are refused
	// then: each of them would cost a thread.
	hangs error

	wasOpen bool
	uuid    string // of the pool that is, or was, open; empty if none was
	// last is the pool that is, or was, open. What it has in memory may be asked for after its end.
	last *pool.Pool
}

// where is the pool's name and path, for messages.
func (s *poolSlot) where() string {
	return fmt.Sprintf("pool %s at %s", s.config.Name, s.config.Path)
}

// named adds the pool's name and path to an error, as pool.Open does.
func (s *poolSlot) named(err error) error { return fmt.Errorf("%s: %w", s.where(), err) }

// refusal is why calls cannot use the pool; nil if they can. Errors: ErrUnavailable,
// ErrUnresponsive.
func (s *poolSlot) refusal() error {
	if s.err != nil {
		return unavailable(s.err)
	}
	return s.hangs
}

// poolStatus is the status of a slot's pool. The error is why the pool is not open, does not answer
// or cannot be written to.
type poolStatus struct {
	poolSlot

	status pool.Status
	err    error
}

func newPoolSet(cfg config.Config, publications *nodeserver.Publications) *poolSet {
	s := &poolSet{
		kubeletDir:   cfg.KubeletDir,
		defaultPool:  cfg.DefaultPool(),
		publications: publications,
		retry:        poolRetry,
		asking:       stuck.NewCalls(stuck.Patience),
		askingStatus: stuck.NewCalls(statusPatience),
		openingEnds:  time.Now().Add(openingTime),
	}
	for _, c := range cfg.Pools {
		slot := &poolSlot{config: c}
		slot.err = slot.named(errOpening)
		s.slots = append(s.slots, slot)
	}
	return s
}

// run opens the pools in parallel, tries those that fail again, and closes and opens again those
// that are no longer at their paths, until the context ends. The pools that are open then stay open
// until close. Errors: those of mount.Watch.
func (s *poolSet) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := staging.RecallLimits(s.limiter); err != nil {
		klog.FromContext(ctx).Error(err, "I/O limits that an earlier process has set may stay")
	}
	var wg sync.WaitGroup
	for _, slot := range s.slots {
		wg.Go(func() { s.keepOpen(ctx, slot) })
	}
	// A directory that is moved changes no mount: it is found when the interval ends.
	err := mount.Watch(ctx, s.retry, s.changes.fire)
	stop() // if Watch has failed, nobody would notice a displaced pool: the driver ends with the error
	wg.Wait()
	return err
}

func (s *poolSet) keepOpen(ctx context.Context, slot *poolSlot) {
	for lastLogged := ""; ctx.Err() == nil; {
		err := s.open(ctx, slot)
		if err == nil {
			lastLogged = ""
			s.closeDisplaced(ctx, slot)
			continue
		}
		if err.Error() != lastLogged {
			lastLogged = err.Error()
			s.logFailure(ctx, slot, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.retry):
		}
	}
}

// logFailure logs why a pool is not open. An absent optional pool is not an error, but its path may
// be mistyped, so it is logged as well.
func (s *poolSet) logFailure(ctx context.Context, slot *poolSlot, err error) {
	logger := klog.FromContext(ctx).WithValues("pool", slot.config.Name, "every", s.retry)
	if isAbsent(slot, err) {
		logger.Info("Optional pool is absent here; it is used when it comes",
			"path", slot.config.Path)
		return
	}
	logger.Error(err, "Pool is not usable; it is tried again")
}

// isAbsent says whether an optional pool is missing, which is no failure.
func isAbsent(slot *poolSlot, err error) bool {
	return slot.config.Optional && errors.Is(err, os.ErrNotExist)
}

func (s *poolSet) open(ctx context.Context, slot *poolSlot) error {
	p, err := s.openPool(ctx, slot)
	if err == nil {
		// The publications must be known before any call can find the pool.
		if err = s.restorePublications(ctx, p); err != nil {
			err = slot.named(errors.Join(err, p.Close()))
		}
	}
	if err != nil {
		p = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slot.pool, slot.err = p, err
	if err == nil {
		slot.wasOpen, slot.uuid, slot.last = true, p.UUID(), p
	}
	return err
}

// restorePublications reads from the mount table what is published from a pool, and then releases
// the images and devices that are not published.
func (s *poolSet) restorePublications(ctx context.Context, p *pool.Pool) error {
	_, err := stuck.Do(ctx, s.asking, s.askKubelet(), func() (struct{}, error) {
		return struct{}{}, s.publications.Rebuild(s.kubeletDir, p)
	}, nil)
	if err != nil {
		return err
	}
	return staging.Reconcile(ctx, p, s.limiter, s.publications.Targets)
}

// askKubelet is a question to the filesystem of kubelet's directory.
func (s *poolSet) askKubelet() stuck.Question {
	return stuck.Question{Key: s.kubeletDir, Path: "kubelet's directory " + s.kubeletDir}
}

func (s *poolSet) openPool(ctx context.Context, slot *poolSlot) (*pool.Pool, error) {
	c := slot.config
	p, err := pool.Open(ctx, pool.Options{
		Name:              c.Name,
		Path:              c.Path,
		Overcommit:        c.Overcommit,
		ReserveBytes:      c.Reserve,
		RequireQuota:      c.Quota == config.QuotaRequired,
		IgnoreQuota:       c.Quota == config.QuotaOff,
		RequireMountpoint: c.RequireMountpoint,
		MustExist:         c.Optional,
		WasOpen:           slot.wasOpen,
		Admit:             func(d *os.File, rest string) error { return s.checkApart(ctx, c, d, rest) },
		Claim:             func(id volume.PoolID) error { return s.checkUnique(ctx, c, id) },
		TrashRetention:    c.TrashRetention,
		AllowMultiNode:    c.AllowMultiNode,

		MaxCopies:          int(c.MaxCopies),
		CopyBytesPerSecond: c.CopyBytesPerSecond,

		MaxSnapshotsPerVolume: int(c.MaxSnapshotsPerVolume),

		Unlimit: func(id volume.ID) (again func()) {
			return staging.Unlimit(ctx, s.limiter, s, id)
		},
	})
	if err != nil {
		return nil, err
	}
	logger := klog.FromContext(ctx).WithValues("pool", c.Name, "path", c.Path)
	filesystem := p.Filesystem()
	if !filesystem.EnforcesSizes {
		logger.Info(
			"Sizes are counted but not enforced in this pool: a volume can fill its filesystem",
			"backend", filesystem.Backend, "quota", c.Quota)
	}
	if filesystem.NoExec {
		logger.Info("Programs in this pool: " + noExecNote)
	}
	warnIfVolatile(logger, filesystem.Volatile)
	return p, nil
}

// noExecNote is for a pool whose volumes pods cannot start programs from.
const noExecNote = "its disk is mounted noexec: pods cannot start programs from directory and file " +
	"volumes, but they can from images. If they should, mount it with exec (mount -o remount,exec)"

// warnIfVolatile logs that a pool's data will be lost. The pool is used all the same, because a
// test cluster may have no disk.
func warnIfVolatile(logger klog.Logger, filesystem string) {
	if filesystem == "" {
		return
	}
	logger.Error(nil,
		"The data of this pool does not survive a reboot: it is in memory (tmpfs), or in a container's own "+
			"layer (overlay). Give the pool a directory of the node's disk",
		"filesystem", filesystem)
}

// checkApart refuses a pool whose path leads, through links or bind mounts, to kubelet's directory
// or to another configured pool. (Config.Validate compares only the text of the paths.) Of two such
// pools neither is used, as in checkUnique. Errors: ErrUnavailable.
func (s *poolSet) checkApart(
	ctx context.Context, c config.Pool, d *os.File, rest string,
) error {
	mounts, err := mount.Table()
	if err != nil {
		return err
	}
	at, err := mount.DestinationOf(mounts, d, rest)
	if err != nil {
		return err
	}
	kubelet, err := stuck.Do(ctx, s.asking, s.askKubelet(), func() (mount.Destination, error) {
		return mount.Follow(mounts, s.kubeletDir)
	}, nil)
	if err != nil {
		return fmt.Errorf("%w: look where kubelet's directory is: %w", volume.ErrUnavailable, err)
	}
	if at.Overlaps(kubelet) {
		return volume.Because(volume.ReasonOverlaps, fmt.Errorf(
			"%w: it leads to %s, which overlaps kubelet's directory %s: give the pool a directory apart from it",
			volume.ErrUnavailable, at, kubelet))
	}
	for _, slot := range s.slots {
		other := slot.config
		if other.Name == c.Name {
			continue
		}
		q := stuck.Question{Key: other.Path, Path: other.Path}
		there, err := stuck.Do(ctx, s.asking, q, func() (mount.Destination, error) {
			return mount.Follow(mounts, other.Path)
		}, nil)
		switch {
		case err != nil:
			// A pool whose disk has died, or hangs, must not keep the others from being used.
		case at.IsSame(there):
			return volume.Because(volume.ReasonOverlaps, fmt.Errorf(
				"%w: it is the same directory as pool %s at %s, namely %s: give each pool a directory of its own",
				volume.ErrUnavailable, other.Name, other.Path, at))
		case at.Overlaps(there):
			return volume.Because(volume.ReasonOverlaps, fmt.Errorf(
				"%w: it leads to %s, which overlaps pool %s at %s: pools must lie apart",
				volume.ErrUnavailable, at, other.Name, there))
		}
	}
	return nil
}

// checkUnique refuses a pool that has the ID of another configured pool. Both are refused, because
// nothing tells the original from the copy, and a volume ID must always mean the same directory.
func (s *poolSet) checkUnique(
	ctx context.Context, c config.Pool, id volume.PoolID,
) error {
	for _, other := range s.slots {
		if other.config.Name == c.Name {
			continue
		}
		q := stuck.Question{Key: other.config.Path, Path: other.config.Path}
		otherID, err := stuck.Do(ctx, s.asking, q, func() (volume.PoolID, error) {
			return pool.IDAt(other.config.Path)
		}, nil)
		if err == nil && otherID == id {
			return volume.Because(volume.ReasonDuplicate, fmt.Errorf(
				"%w: it has the UUID of pool %s at %s: one is a copy of the other, and neither is used. "+
					"Take the copy out of the configuration, or give that pool an empty directory",
				volume.ErrUnavailable, other.config.Name, other.config.Path))
		}
	}
	return nil
}

// close closes the pools. The caller has waited for run.
func (s *poolSet) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, slot := range s.slots {
		if slot.pool != nil {
			errs = append(errs, slot.pool.Close())
			slot.pool, slot.err = nil, fmt.Errorf("%w: the driver is stopping", volume.ErrUnavailable)
		}
	}
	return errors.Join(errs...)
}

// ByID finds the pool that holds a volume.
func (s *poolSet) ByID(id volume.PoolID) (*pool.Pool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var closed []string
	for _, slot := range s.slots {
		if slot.pool == nil {
			closed = append(closed, slot.err.Error())
		} else if slot.pool.ID() == id {
			if slot.hangs != nil {
				return nil, slot.hangs
			}
			return slot.pool, nil
		}
	}
	if len(closed) > 0 { // A pool's UUID is on its disk, so any of these may have the volume.
		return nil, fmt.Errorf("%w: pool %s is not among the open pools; not open: %s",
			volume.ErrUnavailable, id, strings.Join(closed, "; "))
	}
	return nil, noSuchPool(id)
}

func noSuchPool(id volume.PoolID) error {
	return fmt.Errorf(
		"%w: this node has no pool %s: the volume is on another node, or its pool was taken out of the configuration"+
			", or another disk is at its pool's path",
		volume.ErrNotFound, id)
}

// unavailable wraps the error of a pool that is not open with ErrUnavailable, unless it has it.
func unavailable(why error) error {
	if errors.Is(why, volume.ErrUnavailable) {
		return why
	}
	return fmt.Errorf("%w: %w", volume.ErrUnavailable, why)
}

// ByName finds a pool by its name in the configuration; "" is the default pool.
func (s *poolSet) ByName(name string) (*pool.Pool, error) {
	name = cmp.Or(name, s.defaultPool)
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for _, slot := range s.slots {
		if slot.config.Name == name {
			if err := slot.refusal(); err != nil {
				return nil, err
			}
			return slot.pool, nil
		}
		names = append(names, slot.config.Name)
	}
	return nil, fmt.Errorf("%w: this node has no pool %q; it has: %s", volume.ErrNotFound, name,
		strings.Join(names, ", "))
}

// Open lists the pools that are open and answer, in the order of their IDs.
func (s *poolSet) Open() []*pool.Pool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	pools := make([]*pool.Pool, 0, len(s.slots))
	for _, slot := range s.slots {
		if slot.refusal() == nil {
			pools = append(pools, slot.pool)
		}
	}
	slices.SortFunc(pools, func(a, b *pool.Pool) int { return cmp.Compare(a.ID(), b.ID()) })
	return pools
}

// refusals says which configured pools cannot be used, and why; nil: all can.
func (s *poolSet) refusals() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var errs []error
	for _, slot := range s.slots {
		errs = append(errs, slot.refusal())
	}
	return errors.Join(errs...)
}

// all lists the pools that this process may have locked.
func (s *poolSet) all() []*pool.Pool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	pools := slices.Clone(s.closing)
	for _, slot := range s.slots {
		if slot.pool != nil {
			pools = append(pools, slot.pool)
		}
	}
	return pools
}

// notReady says which required pools cannot be used, and why; nil means ready.
func (s *poolSet) notReady() error {
	return notReady(s.statuses())
}

func notReady(pools []poolStatus) error {
	var errs []error
	for _, p := range pools {
		if p.err != nil && !p.config.Optional {
			errs = append(errs, p.err)
		}
	}
	return errors.Join(errs...)
}

// Complete says whether every required pool can be used, and every open pool answers. Errors:
// ErrUnavailable.
func (s *poolSet) Complete() error {
	pools := s.statuses()
	err := notReady(pools)
	for _, p := range pools {
		if p.config.Optional && errors.Is(p.err, volume.ErrUnresponsive) {
			err = errors.Join(err, p.err)
		}
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// statuses asks all pools at the same time, and waits for statusPatience. A pool that does not
// answer costs one thread, however often it is asked.
func (s *poolSet) statuses() []poolStatus {
	slots, giveBack := s.borrow()
	defer giveBack()
	all := make([]poolStatus, len(slots))
	var asked sync.WaitGroup
	for i, slot := range slots {
		asked.Go(func() {
			all[i] = poolStatus{poolSlot: slot}
			all[i].status, all[i].err = s.statusOf(slot)
			if all[i].err == nil {
				s.uses.note(slot.config.Name, all[i].status.UsedBytes)
			}
		})
	}
	asked.Wait()
	return all
}

func (s *poolSet) statusOf(slot poolSlot) (pool.Status, error) {
	return askPool(s, slot, slot.pool.Status)
}

// check says whether the slot's pool can be used. Unlike statusOf it counts nothing.
func (s *poolSet) check(slot poolSlot) error {
	_, err := askPool(s, slot, func() (struct{}, error) { return struct{}{}, slot.pool.Check() })
	return err
}

// askPool asks the slot's pool, if it is open and answers.
func askPool[T any](s *poolSet, slot poolSlot, ask func() (T, error)) (answer T, err error) {
	if slot.pool == nil {
		return answer, slot.err
	}
	if slot.hangs != nil {
		return answer, slot.hangs
	}
	q := stuck.Question{Key: slot.config.Name, Path: slot.where()}
	return stuck.Do(context.Background(), s.askingStatus, q, func() (T, error) {
		leave := s.calls.enter() // the pool stays open for an answer that nobody waits for
		defer leave()
		return ask()
	}, nil)
}

// stillOpening is nil as soon as the driver has tried every pool once, or has tried for long: the
// disk of a pool that hangs must not keep the sidecars from the others.
func (s *poolSet) stillOpening() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if time.Now().After(s.openingEnds) {
		return nil
	}
	for _, slot := range s.slots {
		if slot.pool == nil && errors.Is(slot.err, errOpening) {
			return slot.err
		}
	}
	return nil
}

// borrow copies the slots, so that nobody holds the lock while a disk answers. Their pools stay
// open until giveBack.
func (s *poolSet) borrow() (_ []poolSlot, giveBack func()) {
	giveBack = s.calls.enter()
	s.mu.RLock()
	defer s.mu.RUnlock()
	slots := make([]poolSlot, 0, len(s.slots))
	for _, slot := range s.slots {
		slots = append(slots, *slot)
	}
	return slots, giveBack
}
