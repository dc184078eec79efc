package gitsource

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// pools are those of a node. The first one is the default one.
type pools struct {
	mu     sync.Mutex
	all    []*pool.Pool
	broken error // what finds a pool by its ID
}

func (s *pools) ByID(id volume.PoolID) (*pool.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, s.broken
	}
	for _, p := range s.all {
		if p.ID() == id {
			return p, nil
		}
	}
	return nil, volume.ErrNotFound
}

func (s *pools) ByName(name string) (*pool.Pool, error) {
	for _, p := range s.Open() {
		if name == "" || p.Name() == name {
			return p, nil
		}
	}
	return nil, volume.ErrNotFound
}

func (s *pools) Open() []*pool.Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func (*pools) Use() func() { return func() {} }

func (s *pools) breakWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

func (s *pools) set(all ...*pool.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = all
}

func openPool(t *testing.T, name, dir string) *pool.Pool {
	t.Helper()
	p, err := pool.Open(t.Context(), pool.Options{Name: name, Path: filepath.Join(dir, name)})
	fixture.Must(t, err)
	t.Cleanup(func() { fixture.Must(t, p.Close()) })
	return p
}

// newContents has a pool of its own and a server with one commit.
func newContents(t *testing.T) (*Contents, *pool.Pool, *fixture.Fetcher) {
	t.Helper()
	disks.RequireRoot(t)
	p := openPool(t, "p", t.TempDir())
	f := fixture.NewFetcher(t)
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	return startContents(t, f, p), p, f
}

func commitOf(digit string) string { return strings.Repeat(digit, 40) }

// startContents is what a start of the driver makes.
func startContents(t *testing.T, f *fixture.Fetcher, all ...*pool.Pool) *Contents {
	t.Helper()
	prefix, err := volume.ParseGitPrefix("https://h/")
	fixture.Must(t, err)
	s := New(t.Context(), Options{
		Rules: NewRules([]Rule{{Prefix: prefix, MaxSizeBytes: 1 << 30, MinPeriod: time.Second}}),
		Pools: &pools{all: all}, Fetch: At(f.Socket),
	})
	t.Cleanup(s.Close)
	return s
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
	return openAs(t, s, requestOf(t, pod))
}

func openAs(t *testing.T, s *Contents, r Request) error {
	t.Helper()
	f, err := s.Open(t.Context(), r)
	if err == nil {
		f.Close()
	}
	return err
}

// withToken is a request with a secret.
func withToken(r Request, token string) Request {
	r.Secret = map[string]string{secretToken: token}
	return r
}

// known is what is known of a content.
type known struct {
	id                 volume.ID
	commit             string
	failures           int
	cleanAt, lastTried time.Time
	isTimed            bool // a refresh is due
}

// only is what is known of the content, which is the only one.
func (s *Contents) only(t *testing.T) (only known) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.contents) != 1 {
		t.Fatalf("%d contents, want 1", len(s.contents))
	}
	for _, c := range s.contents {
		only = known{c.id, c.commit, c.failures, c.cleanAt, c.lastTried, c.timer != nil}
	}
	return only
}

// refreshNow asks the server once, as a timer does.
func (s *Contents) refreshNow(t *testing.T) {
	t.Helper()
	id := s.only(t).id
	s.mu.Lock()
	c := s.contents[id]
	s.mu.Unlock()
	s.refresh(c)
	s.mu.Lock()
	running := c.running
	s.mu.Unlock()
	if running != nil {
		<-running.done
	}
}

// fileOf is the text of a file that pods see; "" without it.
func fileOf(t *testing.T, p *pool.Pool, path string) string {
	t.Helper()
	contents := p.GitContents()
	if len(contents) != 1 {
		t.Fatalf("%d volumes, want 1", len(contents))
	}
	dir, err := dirOf(p, contents[0].ID)
	fixture.Must(t, err)
	defer dir.Close()
	text, err := os.ReadFile(filepath.Join(openat.Path(dir), path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	return string(text)
}

// wantBuilding looks at how many trees lie beside the one that pods see.
func wantBuilding(t *testing.T, p *pool.Pool, want int) {
	t.Helper()
	dir, err := dirOf(p, p.GitContents()[0].ID)
	fixture.Must(t, err)
	defer dir.Close()
	entries, err := os.ReadDir(openat.Path(dir) + "/../building")
	fixture.Must(t, err)
	if len(entries) != want {
		t.Errorf("beside the tree are %v, want %d", entries, want)
	}
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
