package gitsource

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

type onePool struct{ *pool.Pool }

func (p onePool) ByID(volume.PoolID) (*pool.Pool, error) { return p.Pool, nil }
func (p onePool) ByName(string) (*pool.Pool, error)      { return p.Pool, nil }
func (p onePool) Open() []*pool.Pool                     { return []*pool.Pool{p.Pool} }
func (onePool) Use() func()                              { return func() {} }

// newContents has a pool of its own and a server with one commit.
func newContents(t *testing.T) (*Contents, *pool.Pool, *fixture.Fetcher) {
	t.Helper()
	disks.RequireRoot(t)
	p, err := pool.Open(t.Context(), pool.Options{Name: "p", Path: filepath.Join(t.TempDir(), "pool")})
	fixture.Must(t, err)
	f := fixture.NewFetcher(t)
	f.Commit(strings.Repeat("a", 40), map[string]string{"x": "one"})
	prefix, err := volume.ParseGitPrefix("https://h/")
	fixture.Must(t, err)
	s := New(context.WithoutCancel(t.Context()), Options{
		Rules: NewRules([]Rule{{Prefix: prefix, MaxSizeBytes: 1 << 30, MinPeriod: time.Second}}),
		Pools: onePool{p}, Fetch: At(f.Socket),
	})
	t.Cleanup(func() {
		s.Close()
		fixture.Must(t, p.Close())
	})
	return s, p, f
}

func requestOf(t *testing.T, pod int) Request {
	t.Helper()
	target, err := mount.ParseTarget("/k", fmt.Sprintf("/k/pods/%d/volumes/v/mount", pod))
	fixture.Must(t, err)
	url, err := volume.ParseGitURL("https://h/site")
	fixture.Must(t, err)
	return Request{
		Use: Use{
			Source:    volume.GitSource{URL: url, Ref: "HEAD", Depth: 1, SizeBytes: 16 << 20},
			Namespace: "ns",
		},
		Target: target,
	}
}

func open(t *testing.T, s *Contents, pod int) error {
	t.Helper()
	f, err := s.Open(t.Context(), requestOf(t, pod))
	if err == nil {
		f.Close()
	}
	return err
}

func TestManyPodsAtOnceFetchOnce(t *testing.T) {
	s, p, f := newContents(t)
	release := f.Hold()
	const pods = 50
	errs := make([]error, pods)
	var opened sync.WaitGroup
	for i := range pods {
		r := requestOf(t, i)
		opened.Go(func() {
			dir, err := s.Open(t.Context(), r)
			if err == nil {
				dir.Close()
			}
			errs[i] = err
		})
	}
	fixture.Eventually(t, "the fetch has begun", func() bool { return len(f.Requests()) == 1 })
	release()
	opened.Wait()
	fixture.Must(t, errors.Join(errs...))
	if got := len(f.Requests()); got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
	if got := len(p.GitContents()); got != 1 {
		t.Errorf("%d volumes, want 1", got)
	}
	if got := s.Stats(); got.Contents != 1 || got.Fetches[resultChanged] != 1 {
		t.Errorf("%+v", got)
	}
}

func TestFetchGoesOnWithoutItsPublish(t *testing.T) {
	s, _, f := newContents(t)
	s.patience = 10 * time.Millisecond
	release := f.Hold()
	if err := open(t, s, 1); !errors.Is(err, volume.ErrBusy) {
		t.Fatalf("%v, want %v", err, volume.ErrBusy)
	}
	requested := requestOf(t, 1)
	s.Release(requested.Target) // as an unpublish meanwhile
	release()
	fixture.Eventually(t, "the fetch has ended", func() bool {
		return s.Stats().Fetches[resultChanged] == 1
	})
	fixture.Must(t, open(t, s, 2))
	if got := len(f.Requests()); got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
}

func TestSweepDeletesOnlyWhatNoPodShows(t *testing.T) {
	s, p, _ := newContents(t)
	s.unused = 0
	fixture.Must(t, open(t, s, 1))
	left := func(want int, why string) {
		t.Helper()
		s.Sweep(t.Context())
		if got := len(p.GitContents()); got != want {
			t.Errorf("%s: %d contents are left, want %d", why, got, want)
		}
	}
	left(1, "a pod shows it")

	dir, err := s.Open(t.Context(), requestOf(t, 1))
	fixture.Must(t, err)
	defer dir.Close()
	at := t.TempDir()
	fixture.Must(t, unix.Mount(openat.Path(dir), at, "", unix.MS_BIND, ""))
	s.Release(requestOf(t, 1).Target)
	left(1, "a mount shows it")

	fixture.Must(t, unix.Unmount(at, 0))
	left(0, "nobody shows it")
	fixture.Must(t, open(t, s, 2))
	left(1, "it was made again")
}

func TestPeriodOfZeroAsksOnce(t *testing.T) {
	s, _, f := newContents(t)
	fixture.Must(t, open(t, s, 1))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.contents {
		if c.timer != nil {
			t.Error("a refresh is due")
		}
	}
	if got := len(f.Requests()); got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
}

func TestSlowServerLeavesTurnsToOthers(t *testing.T) {
	turns := newTurns()
	for range maxFetchesOfHost {
		_, err := turns.enter(t.Context(), "slow")
		fixture.Must(t, err)
	}
	if _, ok := turns.tryEnter("slow"); ok {
		t.Error("a server has more than its turns")
	}
	leave, err := turns.enter(t.Context(), "quick")
	fixture.Must(t, err)
	leave()
}
