package job

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// done is the progress of the tests' jobs.
type done string

func (d done) String() string { return string(d) }

var copying = Kind[done]{Noun: "copy", NewProgress: func() done { return "nothing copied" }}

func TestLogSaysFromTimeToTimeHowFarACopyIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var lines []string
		log := funcr.New(func(_, line string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line)
		}, funcr.Options{})
		j := Start(t.Context(), copying)
		defer j.Close()
		const takes = 2*progressInterval + time.Second
		work := func(context.Context, done) (string, error) {
			time.Sleep(takes)
			return "made", nil
		}
		ctx := klog.NewContext(t.Context(), log)
		if made, err := Run(ctx, j, "snapshot s", 1, work); made != "made" || err != nil {
			t.Fatal(made, err)
		}
		time.Sleep(10 * progressInterval) // with its end the log is told no more
		mu.Lock()
		defer mu.Unlock()
		if len(lines) != 2 {
			t.Fatalf("a copy of %s has logged %q, want two lines", takes, lines)
		}
		for _, want := range []string{"A copy is under way", "snapshot s", "nothing copied in 30s"} {
			if !strings.Contains(lines[0], want) {
				t.Errorf("the log says %s, want %q in it", lines[0], want)
			}
		}
	})
}

var errBroken = errors.New("the disk is broken")

// copies has work that ends when a test says so.
type copies struct {
	jobs  *Jobs[done]
	begun int
	end   chan error
}

func newCopies(t *testing.T) *copies {
	t.Helper()
	c := &copies{jobs: Start(t.Context(), copying), end: make(chan error)}
	t.Cleanup(c.jobs.Close)
	return c
}

// call returns what was made: the number of copies that have begun.
func (c *copies) call(ctx context.Context, request int) (int, error) {
	return Run(ctx, c.jobs, "x", request, func(context.Context, done) (int, error) {
		c.begun++
		made := c.begun
		return made, <-c.end
	})
}

// gone is a call whose caller does not wait.
func (c *copies) gone(t *testing.T, request int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.call(ctx, request); !errors.Is(err, volume.ErrBusy) {
		t.Fatalf("%v, want ErrBusy", err)
	}
}

// What a caller is told comes through other programs, and is recognised all the same.
func TestProgressIsFoundInWhatACallerIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		work := newCopies(t)
		defer close(work.end)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := work.call(ctx, 1)
		for _, message := range []string{
			err.Error(), "failed to provision (3rd time): rpc error: desc = " + err.Error(),
		} {
			progress, goesOn := ProgressIn(message)
			if !goesOn || progress != "nothing copied in "+(time.Minute-replyMargin).String() {
				t.Errorf("%q: %q, %v", message, progress, goesOn)
			}
		}
	})
	for _, message := range []string{"", "x goes on", "no space (1 GiB): ask again"} {
		if progress, goesOn := ProgressIn(message); goesOn {
			t.Errorf("%q: %q", message, progress)
		}
	}
}

func TestFailureOfAJobReachesOneCallAtLeastAndTheNextOneBeginsAnew(t *testing.T) {
	for _, c := range []struct {
		title   string
		waiting int // calls that wait when the job fails
		later   int // the request of the call after that
		want    error
	}{
		{title: "nobody waits: the next call gets it", later: 1, want: errBroken},
		{title: "another request does not get it", later: 2},
		{title: "one waits", waiting: 1, later: 1},
		{title: "many wait", waiting: 8, later: 1},
	} {
		t.Run(c.title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				work := newCopies(t)
				work.gone(t, 1)
				var waiting sync.WaitGroup
				for range c.waiting {
					waiting.Go(func() {
						if _, err := work.call(t.Context(), 1); !errors.Is(err, errBroken) {
							t.Errorf("a call that waits: %v, want %v", err, errBroken)
						}
					})
				}
				synctest.Wait()
				work.end <- errBroken
				waiting.Wait()
				synctest.Wait()
				close(work.end) // what begins from here on succeeds
				if _, err := work.call(t.Context(), c.later); !errors.Is(err, c.want) {
					t.Errorf("the next call: %v, want %v", err, c.want)
				}
				if made, err := work.call(t.Context(), c.later); made < 2 || err != nil {
					t.Errorf("the call after that: copy %d, %v, want a new one", made, err)
				}
			})
		})
	}
}

func TestCallsOfOneRequestShareAJobAndItsResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		work := newCopies(t)
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				if made, err := work.call(t.Context(), 1); made != 1 || err != nil {
					t.Errorf("copy %d, %v, want the first one", made, err)
				}
			})
		}
		synctest.Wait()
		if _, err := work.call(t.Context(), 2); !errors.Is(err, volume.ErrBusy) {
			t.Errorf("another request under the same name: %v, want ErrBusy", err)
		}
		work.end <- nil
		calls.Wait()
	})
}

func TestKeptFailuresAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := Start(t.Context(), copying)
		defer j.Close()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for i := range maxUnreported + 10 {
			_, _ = Run(gone, j, strings.Repeat("x", i), 1,
				func(context.Context, done) (int, error) { return 0, errBroken })
		}
		synctest.Wait()
		if n := len(j.unreportedFailures); n > maxUnreported {
			t.Errorf("%d failures are kept, want at most %d", n, maxUnreported)
		}
	})
}

func TestStoppedJobHasEndedAndTheNextCallBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := Start(t.Context(), copying)
		defer j.Close()
		ended := 0
		work := func(ctx context.Context, _ done) (int, error) {
			<-ctx.Done()
			ended++
			return 0, ctx.Err()
		}
		var waiting sync.WaitGroup
		waiting.Go(func() {
			_, begun, err := RunOwning(t.Context(), j, "x", 1, work)
			if !begun || !errors.Is(err, volume.ErrBusy) {
				t.Errorf("the call of the stopped job: begun %v, %v, want ErrBusy", begun, err)
			}
		})
		synctest.Wait()
		for range 2 { // the second time there is nothing to stop
			if err := j.Stop(t.Context(), "x"); err != nil || ended != 1 {
				t.Errorf("Stop: %v, %d jobs have ended, want one", err, ended)
			}
		}
		waiting.Wait()
		again := func(context.Context, done) (int, error) { return 7, nil }
		if made, err := Run(t.Context(), j, "x", 1, again); made != 7 || err != nil {
			t.Errorf("the next call: %d, %v, want a new job", made, err)
		}
	})
}
