package pool

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
	// replyMargin is how long before its deadline a call is told that its copy goes on, so that the
	// answer arrives; at most a tenth of the time that the call had.
	replyMargin = time.Second
	// maxUntold bounds how many failures are kept for callers that may never come back.
	maxUntold = 1000
	// progressInterval is how often the log says how far a copy is.
	progressInterval = 30 * time.Second
)

var errClosing = fmt.Errorf("%w: the driver is stopping, and the copy has been given up: ask again",
	volume.ErrUnavailable)

// jobs are the copies of a pool that are under way. A copy belongs to the pool, not to the call
// that asked for it: it outlives the call, and the same call joins it.
type jobs struct {
	stop context.CancelCauseFunc
	ctx  context.Context //nolint:containedctx // the life of the pool
	wg   sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	running map[string]*job
	// untold has what failed when nobody waited any more: the next call of that kind hears of it
	// instead of failing in the same way.
	untold map[string]*job
}

// job is one copy.
type job struct {
	key string
	// asked is the request, a comparable value: who asks for something else under the same name
	// does not join.
	asked    any
	progress *copytree.Progress
	began    time.Time
	waiters  int           // under the mutex of jobs
	done     chan struct{} // closed after err has been set
	err      error
}

// start makes jobs that end with the context, or when they are closed.
func (j *jobs) start(ctx context.Context) {
	// Not the context's child: that would end with the context's cause, and callers would be told
	// that they have given up themselves.
	j.ctx, j.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { j.stop(errClosing) })
	j.running, j.untold = make(map[string]*job), make(map[string]*job)
}

// close ends the jobs and waits for them.
func (j *jobs) close() {
	if j.stop == nil {
		return
	}
	j.stop(errClosing)
	j.mu.Lock()
	j.stopped = true
	j.mu.Unlock()
	j.wg.Wait()
}

// run does the work of that name, or joins who does it already, and returns how it ended. Errors:
// ErrBusy when it has not ended by shortly before the context's deadline, and for a request that
// asks for something else under the same name; the work goes on, and so it does when the context
// ends.
func (j *jobs) run(
	ctx context.Context, key string, asked any, work func(context.Context, *copytree.Progress) error,
) error {
	w, err := j.join(ctx, key, asked, work)
	if err != nil {
		return err
	}
	ctx, cancel := withMargin(ctx)
	defer cancel()
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	if j.leave(w) {
		return w.err
	}
	return fmt.Errorf("%w: %s goes on (%s): ask again", volume.ErrBusy, key, w.describe())
}

// join finds the job or begins it.
func (j *jobs) join(
	ctx context.Context, key string, asked any, work func(context.Context, *copytree.Progress) error,
) (*job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w, ok := j.running[key]; ok {
		if w.asked != asked {
			return nil, fmt.Errorf("%w: %s is being made for another request (%s)", volume.ErrBusy, key,
				w.describe())
		}
		w.waiters++
		return w, nil
	}
	if w, ok := j.untold[key]; ok {
		delete(j.untold, key)
		if w.asked == asked {
			w.waiters++
			return w, nil
		}
	}
	if j.stopped {
		return nil, errClosing
	}
	w := &job{
		key:      key,
		asked:    asked,
		progress: &copytree.Progress{},
		began:    time.Now(),
		waiters:  1,
		done:     make(chan struct{}),
	}
	j.running[key] = w
	log := klog.FromContext(ctx)
	j.wg.Go(func() { j.do(log, w, work) }) //nolint:contextcheck // it outlives the call
	return w, nil
}

// do works with the context of the pool and the log of the call.
func (j *jobs) do(log klog.Logger, w *job, work func(context.Context, *copytree.Progress) error) {
	stop := j.report(log, w)
	defer stop()
	err := work(klog.NewContext(j.ctx, log), w.progress)
	if err != nil && j.ctx.Err() != nil {
		err = errors.Join(context.Cause(j.ctx), err)
	}
	j.end(log, w, err)
}

// end tells those who wait, or keeps what went wrong for the next one.
func (j *jobs) end(log klog.Logger, w *job, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, w.key)
	w.err = err
	if w.waiters == 0 {
		log.Info("A copy has ended that nobody waits for; the next call hears of it", "what", w.key,
			"result", w.describe(), "err", err)
		if err != nil && len(j.untold) < maxUntold {
			j.untold[w.key] = w
		}
	}
	close(w.done)
}

// leave says whether the job had ended when its caller stopped waiting.
func (j *jobs) leave(w *job) (ended bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	w.waiters--
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// report logs how far a job is, from time to time, until stop is called.
func (j *jobs) report(log klog.Logger, w *job) (stop func()) {
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

// stats are those of all jobs together.
func (j *jobs) stats() (running int, copied int64) {
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
