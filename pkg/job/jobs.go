// Package job has work that outlives the calls that ask for it, and the gate at which background
// work lets calls go first.
package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// replyMargin is how long before its deadline a call is answered that its job goes on, so that
	// the answer arrives, also through the controller and on a busy machine: with 1 s callers were
	// told only that their deadline had passed. It is at most a tenth of the time that the call had.
	replyMargin = 3 * time.Second
	// maxUnreported bounds how many failures are kept for callers that may never come back.
	maxUnreported = 1000
	// progressInterval is how often the log says how far a job is.
	progressInterval = 30 * time.Second
)

// Jobs are the jobs of a pool that are under way, of one kind. A job belongs to the pool, not to
// the call that asked for it: the job outlives the call, and the same call joins the job. A P says
// how far a job is.
type Jobs[P fmt.Stringer] struct {
	kind       Kind[P]
	errClosing error
	stop       context.CancelCauseFunc
	ctx        context.Context //nolint:containedctx // the life of the pool
	wg         sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	running map[string]*job[P]
	// unreportedFailures has the failed jobs whose error no caller has got yet. The next call of
	// the same name gets it, instead of failing in the same way after as long a time.
	unreportedFailures map[string]*job[P]
}

// Kind says what jobs do.
type Kind[P fmt.Stringer] struct {
	// Noun is what the log and errors call a job.
	Noun string
	// NewProgress makes the progress of a job that begins.
	NewProgress func() P
}

// Work does a job, and returns what it made. Its context ends with the pool, not with the call.
type Work[T any, P fmt.Stringer] func(ctx context.Context, progress P) (T, error)

// job is one job.
type job[P fmt.Stringer] struct {
	key string
	// request is a comparable value. A caller with another request under the same name does not
	// join.
	request  any
	progress P
	began    time.Time
	ctx      context.Context //nolint:containedctx // the life of the job
	stop     context.CancelCauseFunc
	outlived bool          // a caller has gone before the end; under the mutex of Jobs
	done     chan struct{} // closed after result and err have been set
	result   any
	err      error
}

// Start returns jobs that end with the context, or with Close.
func Start[P fmt.Stringer](ctx context.Context, kind Kind[P]) *Jobs[P] {
	j := &Jobs[P]{
		kind: kind,
		errClosing: fmt.Errorf("%w: the driver is stopping, and the %s has been given up: ask again",
			volume.ErrUnavailable, kind.Noun),
		running:            make(map[string]*job[P]),
		unreportedFailures: make(map[string]*job[P]),
	}
	// A child of ctx would end with the cause of ctx, and callers would be told that they have
	// given up themselves.
	j.ctx, j.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { j.stop(j.errClosing) })
	return j
}

// Close ends the jobs and waits for them.
func (j *Jobs[P]) Close() {
	j.stop(j.errClosing)
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
func Run[T any, P fmt.Stringer](
	ctx context.Context, j *Jobs[P], key string, request any, work Work[T, P],
) (result T, err error) {
	result, _, err = RunOwning(ctx, j, key, request, work)
	return result, err
}

// RunOwning is Run for work that has something to close: begun says whether the work has begun, or
// will, with this call. If not, the caller closes it.
func RunOwning[T any, P fmt.Stringer](
	ctx context.Context, j *Jobs[P], key string, request any, work Work[T, P],
) (result T, begun bool, err error) {
	w, begun, err := j.join(ctx, key, request, func(w *job[P]) {
		w.result, w.err = work(w.ctx, w.progress)
	})
	if err != nil {
		return result, begun, err
	}
	if err := j.wait(ctx, w); err != nil {
		return result, begun, err
	}
	result, _ = w.result.(T)
	return result, begun, nil
}

// Stop ends a job and waits until it has ended; nothing is to be done if there is none. Its callers
// get ErrBusy. Errors: ErrBusy when the job has not ended before the context.
func (j *Jobs[P]) Stop(ctx context.Context, key string) error {
	j.mu.Lock()
	w := j.running[key]
	j.mu.Unlock()
	if w == nil {
		return nil
	}
	w.stop(fmt.Errorf("%w: %s was stopped for another call: ask again", volume.ErrBusy, key))
	select {
	case <-w.done:
	case <-ctx.Done():
		return fmt.Errorf("%w: %s has not stopped yet (%s)", volume.ErrBusy, key, w.describe())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.unreportedFailures[key] == w {
		delete(j.unreportedFailures, key)
	}
	return nil
}

// join finds the job or begins it.
func (j *Jobs[P]) join(
	ctx context.Context, key string, request any, do func(*job[P]),
) (w *job[P], begun bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w, ok := j.running[key]; ok {
		if w.request != request {
			return nil, false, fmt.Errorf("%w: %s is under way for another request (%s)", volume.ErrBusy,
				key, w.describe())
		}
		return w, false, nil
	}
	if w, ok := j.unreportedFailures[key]; ok {
		delete(j.unreportedFailures, key)
		if w.request == request {
			return w, false, nil
		}
	}
	if j.stopped {
		return nil, false, j.errClosing
	}
	w = &job[P]{
		key:      key,
		request:  request,
		progress: j.kind.NewProgress(),
		began:    time.Now(),
		done:     make(chan struct{}),
	}
	j.running[key] = w
	log := klog.FromContext(ctx)
	// It has the context of the pool and the log of the call.
	w.ctx, w.stop = context.WithCancelCause(klog.NewContext(j.ctx, log))
	j.wg.Go(func() { j.run(log, w, do) })
	return w, true, nil
}

func (j *Jobs[P]) run(log klog.Logger, w *job[P], do func(*job[P])) {
	stop := j.report(log, w)
	defer stop()
	defer w.stop(nil)
	do(w)
	if w.err != nil && w.ctx.Err() != nil {
		w.err = errors.Join(context.Cause(w.ctx), w.err)
	}
	j.end(log, w)
}

// end lets the callers go on that wait, and keeps a failure until one of them has got it.
func (j *Jobs[P]) end(log klog.Logger, w *job[P]) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, w.key)
	if w.err != nil && len(j.unreportedFailures) < maxUnreported {
		j.unreportedFailures[w.key] = w
	}
	if w.outlived {
		log.Info("A "+j.kind.Noun+" that outlived its call has ended; the next call returns the result",
			"what", w.key, "result", w.describe(), "err", w.err)
	}
	close(w.done)
}

// wait returns the error with which the job has ended, or ErrBusy shortly before the deadline.
func (j *Jobs[P]) wait(ctx context.Context, w *job[P]) error {
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
		return fmt.Errorf("%w: %s"+goesOn+"%s"+again, volume.ErrBusy, w.key, w.describe())
	}
}

// report logs how far a job is, from time to time, until stop is called.
func (j *Jobs[P]) report(log klog.Logger, w *job[P]) (stop func()) {
	ticker := time.NewTicker(progressInterval)
	ended := make(chan struct{})
	j.wg.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				log.Info("A "+j.kind.Noun+" is under way", "what", w.key, "progress", w.describe())
			}
		}
	})
	return func() { ticker.Stop(); close(ended) }
}

// UnderWay is a job that is under way.
type UnderWay[P fmt.Stringer] struct {
	Key      string
	Request  any
	Progress P
	Began    time.Time
}

// UnderWay returns the jobs that are under way, in no order.
func (j *Jobs[P]) UnderWay() []UnderWay[P] {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := make([]UnderWay[P], 0, len(j.running))
	for _, w := range j.running {
		all = append(all, UnderWay[P]{w.key, w.request, w.progress, w.began})
	}
	return all
}

func (w *job[P]) describe() string {
	took := time.Since(w.began)
	if took < time.Second {
		took = took.Round(time.Millisecond)
	} else {
		took = took.Round(time.Second)
	}
	return fmt.Sprintf("%s in %s", w.progress, took)
}

// The end of what a caller is told whose job goes on.
const goesOn, again = " goes on (", "): ask again"

// ProgressIn finds, in the message of an error, how far the job is that the call has not waited
// for. The message may have come through other programs, which have written something before it.
func ProgressIn(message string) (progress string, goesOnStill bool) {
	_, rest, found := strings.Cut(message, goesOn)
	end := strings.LastIndex(rest, again)
	if !found || end < 0 {
		return "", false
	}
	return rest[:end], true
}

// withMargin ends a context a little before its deadline.
func withMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(replyMargin, time.Until(deadline)/10)))
}
