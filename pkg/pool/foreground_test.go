package pool

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestBackgroundWaitsForTheLastCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f foreground
		if others, err := f.Yield(t.Context()); others || err != nil {
			t.Fatalf("with no call ever: others %v, %v", others, err)
		}
		f.enter()
		f.enter()
		time.AfterFunc(2*time.Millisecond, f.leave)
		time.AfterFunc(5*time.Millisecond, f.leave)
		begin := time.Now()
		others, err := f.Yield(t.Context())
		if waited := time.Since(begin); !others || err != nil || waited != 5*time.Millisecond {
			t.Errorf("others %v, %v after %s, want true after 5ms", others, err, waited)
		}
	})
}

func TestBackgroundExpectsCallsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f foreground
		f.enter()
		f.leave()
		for _, after := range []struct {
			pause time.Duration
			want  bool
		}{{lately - time.Millisecond, true}, {time.Millisecond, false}} {
			time.Sleep(after.pause)
			if others, err := f.Yield(t.Context()); others != after.want || err != nil {
				t.Errorf("after another %s: others %v, %v, want %v", after.pause, others, err, after.want)
			}
		}
	})
}

// However busy the pool is, the background has a fifth of the time.
func TestBackgroundGoesOnUnderCallsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f foreground
		f.enter()
		defer f.leave()
		const step = 100 * time.Microsecond
		begin, steps := time.Now(), 0
		for ; time.Since(begin) < time.Second; steps++ {
			if _, err := f.Yield(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(step)
		}
		if worked := time.Duration(steps) * step; worked < 190*time.Millisecond ||
			worked > 210*time.Millisecond {
			t.Errorf("worked for %s of a second, want 200ms", worked)
		}
	})
}

func TestBackgroundThatWaitsEndsWithItsContext(t *testing.T) {
	var f foreground
	f.enter()
	defer f.leave()
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := f.Yield(ctx); !errors.Is(err, gone) {
		t.Errorf("Yield returned %v, want the context's cause", err)
	}
}

// A call that never ends holds up neither a copy nor a purge for good.
func TestCopyAndPurgeEndWhileACallGoesOn(t *testing.T) {
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disks.New(t, disks.Ext4, 0).Dir, "pool")})
	v := create(t, p, "v", mib)
	files := map[string]string{}
	for i := range 2 * freely {
		files[strconv.Itoa(i)] = ""
	}
	writeTree(t, dataPath(p, v.ID), files)
	p.foreground.enter()
	defer p.foreground.leave()
	s := snapshot(t, p, "s", v.ID)
	if err := p.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	waitPurged(t, p)
}
