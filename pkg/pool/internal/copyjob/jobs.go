// Package copyjob has what the copies of a pool need: jobs that outlive the calls that ask for
// them, the throttle that all copies share, and the gate at which background work lets calls go
// first.
package copyjob

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// replyMargin is how long before its deadline a call is answered that its copy goes on, so that
	// the answer arrives; at most a tenth of the time that the call had.
	replyMargin = time.Second
	// maxUnreported bounds how many failures are kept for callers that may never come back.
	maxUnreported = 1000
	// progressInterval is how often the log says how far a copy is.
	progressInterval = 30 * time.Second
)

var errClosing = fmt.Errorf("%w: the driver is stopping, and the copy has been given up: ask again",
	volume.ErrUnavailable)

// Jobs are the copies of a pool that are under way. A copy belongs to the pool, not to the call
// that asked for it: the copy outlives the call, and the same call joins the copy.
type Jobs struct {
	stop context.CancelCauseFunc
	ctx  context.Context //nolint:containedctx // the life of the pool
	wg   sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	running map[string]*job
	// unreportedFailures has the failed jobs whose error no caller has got yet. The next call of
	// the same name gets it, instead of failing in the same way after as long a time.
	unreportedFailures map[string]*job
}

// Work makes a copy, and returns what it made. Its context ends with the pool, not with the call.
type Work[T any] func(ctx context.Context, progress *copytree.Progress) (T, error)

// job is one copy.
type job struct {
	key string
	// request is a comparable value. A caller with another request under the same name does not
	// join.
	request  any
	progress *copytree.Progress
	began    time.Time
	outlived bool          // a caller has gone before the end; under the mutex of Jobs
	done     chan struct{} // closed after result and err have been set
	result   any
	err      error
}

// Start returns jobs that end with the context, or with Close.
func Start(ctx context.Context) *Jobs {
	j := &Jobs{running: make(map[string]*job), unreportedFailures: make(map[string]*job)}
	// A child of ctx would end with the cause of ctx, and callers would be told that they have
	// given up themselves.
	j.ctx, j.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { j.stop(errClosing) })
	return j
}

// Close ends the jobs and waits for them.
func (j *Jobs) Close() {
	j.stop(errClosing)
	j.mu.Lock()
	j.stopped = true
	j.mu.Unlock()
	j.wg.Wait()
}

// Run does the work of that name, or joins the job that does it already, and returns how the job
// ended. Jobs of one name have one result type. If a job fails after its callers have gone, the
// next call with the same request returns the error, and the one after it begins anew. Errors:
// ErrBusy when the job has not ended by shortly before the context's deadline, and for another
// request under the same name; the job goes on, and so it does when the context ends.
func Run[T any](
	ctx context.Context, j *Jobs, key string, request any, work Work[T],
) (result T, err error) {
	w, err := j.join(ctx, key, request, func(ctx context.Context, w *job) {
		w.result, w.err = work(ctx, w.progress)
	})
	if err != nil {
		return result, err
	}
	if err := j.wait(ctx, w); err != nil {
		return result, err
	}
	result, _ = w.result.(T)
	return result, nil
}

// join finds the job or begins it.
func (j *Jobs) join(
	ctx context.Context, key string, request any, do func(context.Context, *job),
) (*job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w, ok := j.running[key]; ok {
		if w.request != request {
			return nil, fmt.Errorf("%w: %s is being made for another request (%s)", volume.ErrBusy, key,
				w.describe())
		}
		return w, nil
	}
	if w, ok := j.unreportedFailures[key]; ok {
		delete(j.unreportedFailures, key)
		if w.request == request {
			return w, nil
		}
	}
	if j.stopped {
		return nil, errClosing
	}
	w := &job{
		key:      key,
		request:  request,
		progress: &copytree.Progress{},
		began:    time.Now(),
		done:     make(chan struct{}),
	}
	j.running[key] = w
	log := klog.FromContext(ctx)
	j.wg.Go(func() { j.run(log, w, do) }) //nolint:contextcheck // it outlives the call
	return w, nil
}

// run works with the context of the pool and the log of the call.
func (j *Jobs) run(log klog.Logger, w *job, do func(context.Context, *job)) {
	stop := j.report(log, w)
	defer stop()
	do(klog.NewContext(j.ctx, log), w)
	if w.err != nil && j.ctx.Err() != nil {
		w.err = errors.Join(context.Cause(j.ctx), w.err)
	}
	j.end(log, w)
}

// end lets the callers go on that wait, and keeps a failure until one of them has got it.
func (j *Jobs) end(log klog.Logger, w *job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, w.key)
	if w.err != nil && len(j.unreportedFailures) < maxUnreported {
		j.unreportedFailures[w.key] = w
	}
	if w.outlived {
		log.Info("A copy that outlived its call has ended; the next call returns the result",
			"what", w.key, "result", w.describe(), "err", w.err)
	}
	close(w.done)
}

// wait returns the error with which the job has ended, or ErrBusy shortly before the deadline.
func (j *Jobs) wait(ctx context.Context, w *job) error {
	ctx, cancel := withMargin(ctx)
	defer cancel()
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case <-w.done:
		if j.unreportedFailures[w.key] == w {
			delete(j.unreportedFailures, w.key)
		}
		return w.err
	default:
		w.outlived = true
		return fmt.Errorf("%w: %s goes on (%s): ask again", volume.ErrBusy, w.key, w.describe())
	}
}

// report logs how far a job is, from time to time, until stop is called.
func (j *Jobs) report(log klog.Logger, w *job) (stop func()) {
	ticker := time.NewTicker(progressInterval)
	ended := make(chan struct{})
	j.wg.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				log.Info("A copy is under way", "what", w.key, "progress", w.describe())
			}
		}
	})
	return func() { ticker.Stop(); close(ended) }
}

// Stats are those of all jobs together, in bytes.
func (j *Jobs) Stats() (running int, copied int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, w := range j.running {
		copied += w.progress.Stats().Bytes
	}
	return len(j.running), copied
}

func (w *job) describe() string {
	s := w.progress.Stats()
	return fmt.Sprintf("%d bytes in %d files and %d directories copied in %s",
		s.Bytes, s.Files, s.Directories, time.Since(w.began).Round(time.Millisecond))
}

// withMargin ends a context a little before its deadline.
func withMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(replyMargin, time.Until(deadline)/10)))
}
