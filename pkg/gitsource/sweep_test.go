package gitsource

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// Pods come and go while sweeps delete what nobody shows: what a pod gets is there, whole.
func TestSweepBesidePublishes(t *testing.T) {
	s, p, f := newContents(t)
	s.unused = 0
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	const pods, rounds = 4, 20
	var running sync.WaitGroup
	for pod := range pods {
		r := requestOf(t, pod)
		running.Go(func() {
			for range rounds {
				dir, err := s.Open(t.Context(), r)
				if errors.Is(err, volume.ErrBusy) {
					continue // it is being deleted
				}
				if err != nil {
					t.Error(err)
					return
				}
				text, err := os.ReadFile(filepath.Join(openat.Path(dir), "site/x"))
				if err != nil || string(text) != "one" {
					t.Errorf("pod %d sees %q, %v", pod, text, err)
				}
				dir.Close()
				s.Release(r.Target)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	for {
		s.Sweep(t.Context())
		select {
		case <-done:
			s.Sweep(t.Context())
			if got := len(p.GitContents()); got != 0 {
				t.Errorf("%d contents are left", got)
			}
			return
		default:
		}
	}
}

// A sweep finds a tree to remove, and before it gets there another exchange replaces one more.
func TestSweepKeepsInMindWhatAnExchangeHasJustReplaced(t *testing.T) {
	s, p, f := newContents(t)
	fixture.Must(t, open(t, s, 1))
	id := s.only(t).id
	s.mu.Lock()
	s.contents[id].cleanAt = time.Now().Add(-time.Second)
	s.mu.Unlock()
	c, _, isToClean := s.look(id)
	if !isToClean {
		t.Fatal("nothing is to be removed")
	}
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	s.refreshNow(t)
	fixture.Must(t, s.clean(t.Context(), p, c))
	if s.only(t).cleanAt.IsZero() {
		t.Error("the replaced tree is forgotten")
	}
	wantBuilding(t, p, 1)
}

func TestSweepRemovesReplacedTreesAfterTheirGrace(t *testing.T) {
	s, p, f := newContents(t)
	s.grace = time.Nanosecond
	fixture.Must(t, open(t, s, 1))
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	s.refreshNow(t)
	fixture.Eventually(t, "the grace is over", func() bool {
		s.Sweep(t.Context())
		return s.only(t).cleanAt.IsZero()
	})
	wantBuilding(t, p, 0)
	if got := fileOf(t, p, "site/x"); got != "two" {
		t.Errorf("the content is %q", got)
	}
}

// The pool goes with its disk while nobody shows its content, and comes back.
func TestContentOfAPoolThatHasGoneIsForgottenAndFoundAgain(t *testing.T) {
	s, p, _ := newContents(t)
	fixture.Must(t, open(t, s, 1))
	s.Release(requestOf(t, 1).Target)
	all, _ := s.opts.Pools.(*pools)
	all.set()
	s.unused = 0
	s.Sweep(t.Context())
	s.mu.Lock()
	if got := len(s.contents); got != 0 {
		t.Errorf("%d contents are known", got)
	}
	s.mu.Unlock()
	if got := len(p.GitContents()); got != 1 {
		t.Fatalf("%d volumes, want 1", got)
	}
	all.set(p)
	s.Sweep(t.Context())
	if got := len(p.GitContents()); got != 0 {
		t.Errorf("%d volumes are left", got)
	}
}

// The operator makes another pool the default one. Pods that show content go on with what they
// have, and so do those that want the same.
func TestContentStaysInItsPoolWhenTheDefaultChanges(t *testing.T) {
	s, p, f := newContents(t)
	fixture.Must(t, open(t, s, 1))
	s.Close()
	other := openPool(t, "other", t.TempDir())
	s = startContents(t, f, other, p)
	for pod := range 2 {
		r := requestOf(t, pod)
		r.Published = pod == 1
		fixture.Must(t, openAs(t, s, r))
	}
	if got := s.only(t).id.Pool(); got != p.ID() {
		t.Errorf("the content is in pool %s, want %s", got, p.ID())
	}
	named := requestOf(t, 3)
	named.Pool = "other"
	fixture.Must(t, openAs(t, s, named))
	if got := len(other.GitContents()); got != 1 {
		t.Errorf("%d contents in the pool that a pod names, want 1", got)
	}
}
