package gitsource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// fetchTime bounds one fetch.
	fetchTime = 10 * time.Minute
	// maxEntries is ten times what the Linux kernel's tree has.
	maxEntries = 1_000_000
	// maxObjects: each commit of a history has some.
	maxObjects = 4 * maxEntries
	// minPackBytes is what a fetch may receive for the smallest content.
	minPackBytes = 64 << 20
)

// backoff is how long a server is left alone after failures.
type backoff struct {
	// least is the time before a failed first fetch is tried again, and most the longest pause.
	least, most time.Duration
}

func defaultBackoff() backoff { return backoff{least: time.Second, most: 10 * time.Minute} }

// isOver says whether a server that has failed may be asked again.
func (b backoff) isOver(v verdict) bool { return time.Since(v.at) > b.again(v.failures) }

// again is the pause after so many failures of a first fetch. kubelet repeats the call, ever later.
func (b backoff) again(failures int) time.Duration {
	return min(b.least<<min(failures-1, 5), b.most)
}

// refresh is the pause after so many failures of a refresh: up to 8 periods.
func (b backoff) refresh(period time.Duration, failures int) time.Duration {
	return max(period, min(period<<min(failures, 3), b.most))
}

// scheduleLocked sets the timer of the next refresh.
func (s *Contents) scheduleLocked(c *content) {
	c.stopTimer()
	period := c.period()
	if period == 0 || c.commit == "" || c.running != nil || s.closed {
		return // a first fetch is for a publish, which kubelet repeats
	}
	wait := s.backoff.refresh(period, c.failures)
	if c.failures > 0 {
		if v := c.verdicts[c.refresher().proof]; v.err == nil {
			wait = 0 // somebody has brought another secret than that which has failed
		}
	}
	if c.lastTried.IsZero() {
		wait = 0
	}
	wait += time.Duration((rand.Float64() - 0.5) / 5 * float64(wait)) //nolint:gosec // it is no secret
	c.timer = time.AfterFunc(max(0, time.Until(c.lastTried.Add(wait))), func() { s.refresh(c) })
}

// refresh is called by the timer.
func (s *Contents) refresh(c *content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.running == nil && !c.isDeleting && len(c.users) > 0 {
		_, _ = s.startLocked(c, c.refresher()) // a driver that stops refreshes nothing
	}
}

// startLocked begins a fetch with the secret of a user. The fetch belongs to the content: nobody
// who waits for it ends it. Errors: ErrUnavailable when the driver stops.
func (s *Contents) startLocked(c *content, u user) (*fetch, error) {
	if s.closed {
		return nil, fmt.Errorf("%w: the driver is stopping", volume.ErrUnavailable)
	}
	c.stopTimer()
	c.running = &fetch{began: time.Now(), done: make(chan struct{})}
	request := requestFor(c.source, u, c.base())
	source := c.source
	s.fetches.Go(func() {
		err := s.fetch(s.ctx, c, source, request)
		s.finish(c, u.proof, request.Base, err)
	})
	return c.running, nil
}

func requestFor(source volume.GitSource, u user, base string) gitwire.Request {
	return gitwire.Request{
		Version: gitwire.Version,
		URL:     source.URL.String(), Ref: source.Ref, Depth: int(source.Depth), SubPath: source.SubPath,
		Base: base, Credentials: u.credentials, Addresses: u.rule.Addresses,
		Limits: gitwire.Limits{
			PackBytes: max(minPackBytes, source.SizeBytes), Objects: maxObjects,
			TreeBytes: source.SizeBytes, Entries: maxEntries, Time: fetchTime,
		},
	}
}

// fetch asks the server once, and stores what is new.
func (s *Contents) fetch(
	ctx context.Context, c *content, source volume.GitSource, r gitwire.Request,
) error {
	leave, err := s.turns.enter(ctx, source.URL.Host())
	if err != nil {
		return err
	}
	defer leave()
	got, err := s.opts.Fetch(ctx, r)
	if err != nil {
		return err
	}
	defer got.Close()
	if err := got.Answer.Err(); err != nil || got.Answer.Unchanged {
		return err
	}
	return s.store(ctx, c, source, got, r.Limits)
}

// store exchanges the tree. The pool stays open until the end, so the tree of a server that sends
// slowly is bounded in time.
func (s *Contents) store(
	ctx context.Context, c *content, source volume.GitSource, got *gitwire.Fetched,
	limits gitwire.Limits,
) error {
	end := s.opts.Pools.Use()
	defer end()
	p, err := s.opts.Pools.ByID(c.id.Pool())
	if err != nil {
		return err
	}
	v, err := p.Get(c.id)
	if err != nil {
		return err
	}
	c.disk.Lock()
	defer c.disk.Unlock()
	tree, err := s.openTree(v, source)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	err = tree.Replace(ctx, got.Answer.Commit, got.Answer.Base, limits, got.Archive)
	s.note(c, tree.Commit()) // also after an error: pods may see the new tree already
	return err
}

// note enters what a content's volume has. The caller has locked the disk.
func (s *Contents) note(c *content, commit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.isLoaded, c.commit, c.cleanAt = true, commit, time.Now().Add(s.grace)
}

// finish enters what became of a fetch, wakes those that wait, and schedules the next one. base is
// the commit that the content had before.
func (s *Contents) finish(c *content, p proof, base string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	f := c.running
	c.running = nil
	defer close(f.done)
	s.results[resultOf(c, base, err)]++
	if s.closed {
		return
	}
	v := verdict{err: err, at: now}
	if err != nil {
		v.failures = c.verdicts[p].failures + 1
	}
	c.verdicts[p] = v
	s.logLocked(c, v, base, now.Sub(f.began))
	switch {
	case c.isOfOneSecret(err): // the others go on
	case err != nil:
		if c.failures++; c.failures == 1 {
			c.failingSince = now
		}
		c.lastErr, c.lastTried = err, now
	default:
		c.failures, c.lastErr, c.lastTried, c.lastFetched = 0, nil, now, now
	}
	c.forgetVerdicts(now)
	s.scheduleLocked(c)
}

// logLocked says what is new: the first of several failures, and their end. Each exchange is for
// those who want to know more. The failures of the content are still those before the fetch.
func (s *Contents) logLocked(c *content, v verdict, base string, took time.Duration) {
	logger := klog.FromContext(s.ctx).WithValues("url", c.source.URL.String(), "ref", c.source.Ref,
		"volumeID", c.id, "commit", c.commit)
	took = took.Round(time.Millisecond)
	switch {
	case c.isOfOneSecret(v.err):
		logger.V(min(2, 2*(v.failures-1))).Info(
			"The server of content of git has refused the secret of a pod", "err", v.err)
	case v.err != nil && c.failures == 0:
		logger.Error(v.err, "Content of git could not be fetched; it is tried again")
	case v.err != nil:
		logger.V(2).Info("Content of git could not be fetched again", "err", v.err,
			"failures", c.failures+1)
	case c.failures > 0:
		logger.Info("Content of git is fetched again", "failures", c.failures)
	case c.commit != base:
		logger.V(2).Info("Content of git is at another commit", "before", base, "took", took)
	default:
		logger.V(4).Info("Content of git has not changed", "took", took)
	}
}

// The results of fetches that are no faults of gitwire.
const (
	resultChanged   = "changed"
	resultUnchanged = "unchanged"
	// resultFailed: the fetcher was not reached, or the node could not store the tree.
	resultFailed = "failed"
)

// Results lists the results of fetches.
func Results() []string {
	results := []string{resultChanged, resultUnchanged, resultFailed}
	for fault := range faultTable {
		results = append(results, string(fault))
	}
	return results
}

func resultOf(c *content, base string, err error) string {
	var wire *gitwire.Error
	switch {
	case errors.As(err, &wire) && isKnown(wire.Fault):
		return string(wire.Fault)
	case err != nil:
		return resultFailed
	case c.commit != base:
		return resultChanged
	default:
		return resultUnchanged
	}
}
