package stuck

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func about(path string) Question { return Question{Key: path, Path: path} }

func answer() (int, error) { return 7, nil }

func TestOnlyOneCallWaitsForAFilesystemThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := NewCalls(Patience)
		var begun, discarded atomic.Int32
		release := make(chan struct{})
		hang := func() (int, error) {
			begun.Add(1)
			<-release
			return 1, nil
		}
		for range 3 {
			started := time.Now()
			_, err := Do(t.Context(), calls, about("/a"), hang, func(int) { discarded.Add(1) })
			if !errors.Is(err, volume.ErrUnresponsive) {
				t.Errorf("a filesystem that hangs: %v", err)
			}
			if waited := time.Since(started); waited > Patience {
				t.Errorf("a caller has waited %s", waited)
			}
		}
		if begun.Load() != 1 {
			t.Errorf("%d calls were begun", begun.Load())
		}
		if got, err := Do(t.Context(), calls, about("/b"), answer, nil); got != 7 || err != nil {
			t.Errorf("another filesystem: %d, %v", got, err)
		}
		close(release)
		synctest.Wait()
		if discarded.Load() != 1 {
			t.Errorf("%d results were discarded", discarded.Load())
		}
		if got, err := Do(t.Context(), calls, about("/a"), answer, nil); got != 7 || err != nil {
			t.Errorf("a filesystem that answers again: %d, %v", got, err)
		}
	})
}

func TestCallThatComesDuringAnotherWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := NewCalls(Patience)
		slow := func() (int, error) {
			time.Sleep(Patience / 2)
			return 1, nil
		}
		go func() { _, _ = Do(t.Context(), calls, about("/a"), slow, nil) }()
		synctest.Wait()
		if got, err := Do(t.Context(), calls, about("/a"), answer, nil); got != 7 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
		synctest.Wait()
	})
}

func TestCallerThatGoesDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := NewCalls(Patience)
		release := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for range 2 {
			hang := func() (int, error) { <-release; return answer() }
			_, err := Do(ctx, calls, about("/a"), hang, nil)
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, volume.ErrUnresponsive) {
				t.Errorf("%v", err)
			}
		}
		close(release)
		synctest.Wait()
	})
}

func TestCallsThatHangAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := NewCalls(Patience)
		var begun atomic.Int32
		release := make(chan struct{})
		hang := func() (int, error) {
			begun.Add(1)
			<-release
			return answer()
		}
		for i := range 2 * MaxCalls {
			go func() { _, _ = Do(t.Context(), calls, about(strconv.Itoa(i)), hang, nil) }()
		}
		time.Sleep(Patience + time.Second)
		if begun.Load() != MaxCalls {
			t.Errorf("%d calls were begun", begun.Load())
		}
		started := time.Now()
		_, err := Do(t.Context(), calls, about("/a"), answer, nil)
		if !errors.Is(err, volume.ErrUnresponsive) || !strings.Contains(err.Error(), "of 64 paths") {
			t.Errorf("one call more: %v", err)
		}
		if waited := time.Since(started); waited > 0 {
			t.Errorf("its caller has waited %s", waited)
		}
		close(release)
		synctest.Wait()
		if got, err := Do(t.Context(), calls, Question{Key: "/a"}, answer, nil); got != 7 || err != nil {
			t.Errorf("when all have ended: %d, %v", got, err)
		}
	})
}

func TestManyCallsThatEndWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := NewCalls(Patience)
		slow := func() (int, error) {
			time.Sleep(Patience / 2)
			return 1, nil
		}
		for i := range 4 * MaxCalls {
			go func() {
				_, err := Do(t.Context(), calls, Question{Key: strconv.Itoa(i)}, slow, nil)
				if err != nil {
					t.Error(err)
				}
			}()
		}
		time.Sleep(4 * Patience)
		synctest.Wait()
	})
}
