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

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// fsImmutable is FS_IMMUTABLE_FL of linux/fs.h: nobody can change, replace or remove the file.
const fsImmutable = 0x10

// takes lets the server take these tokens only.
func takes(tokens ...string) func(gitwire.Request) *gitwire.Error {
	return func(r gitwire.Request) *gitwire.Error {
		if slices.Contains(tokens, r.Credentials.Password) {
			return nil
		}
		return &gitwire.Error{Fault: gitwire.Unauthorized, Message: "want another secret"}
	}
}

// Many servers say of a private repository that it does not exist. Who may not read it neither sees
// what another pod's secret has opened, nor keeps that pod's content from being refreshed.
func TestSecretThatFindsNoRepositoryOpensNothing(t *testing.T) {
	s, p, f := newContents(t)
	f.Judge(func(r gitwire.Request) *gitwire.Error {
		if r.Credentials.Password == "right" {
			return nil
		}
		return &gitwire.Error{Fault: gitwire.NotFound, Message: "no such repository"}
	})
	fixture.Must(t, openAs(t, s, withToken(requestOf(t, 1), "right")))
	other := withToken(requestOf(t, 2), "of another repository")
	if err := openAs(t, s, other); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("%v, want %v", err, volume.ErrPrecondition)
	}
	other.Published = true // its secret was replaced later
	fixture.Must(t, openAs(t, s, other))
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	s.refreshNow(t)
	s.refreshNow(t)
	if got := fileOf(t, p, "site/x"); got != "two" || s.only(t).failures != 0 {
		t.Errorf("the content is %q, after %d failures", got, s.only(t).failures)
	}
}

func TestPausesGrowWithFailures(t *testing.T) {
	b := backoff{least: time.Second, most: 10 * time.Minute}
	for failures, want := range map[int]float64{1: 1, 2: 2, 3: 4, 6: 32, 7: 32, 1000: 32} {
		if got := b.again(failures); got.Seconds() != want {
			t.Errorf("after %d failures of a first fetch: %v, want %vs", failures, got, want)
		}
	}
	for _, tc := range []struct {
		period   time.Duration
		failures int
		want     time.Duration
	}{
		{time.Minute, 0, time.Minute},
		{time.Minute, 1, 2 * time.Minute},
		{time.Minute, 3, 8 * time.Minute},
		{time.Minute, 1000, 8 * time.Minute},
		{5 * time.Minute, 2, 10 * time.Minute},
		{time.Hour, 5, time.Hour},
		{8760 * time.Hour, 5, 8760 * time.Hour},
	} {
		if got := b.refresh(tc.period, tc.failures); got != tc.want {
			t.Errorf("%v after %d failures: %v, want %v", tc.period, tc.failures, got, tc.want)
		}
	}
}

// A pod that comes with a wrong secret again and again neither delays the refreshes of others nor
// makes them look like failures, and the server is not asked each time.
func TestWrongSecretOfOnePodIsNoFaultOfTheContent(t *testing.T) {
	s, _, f := newContents(t)
	f.Judge(takes("right"))
	right := withToken(requestOf(t, 1), "right")
	right.Source.Period = time.Hour
	fixture.Must(t, openAs(t, s, right))
	before := s.only(t)
	s.backoff.least = time.Nanosecond
	for range 3 {
		err := openAs(t, s, withToken(requestOf(t, 2), "wrong"))
		if !errors.Is(err, volume.ErrForbidden) || strings.Contains(err.Error(), "wrong") {
			t.Fatalf("%v, want %v without the secret", err, volume.ErrForbidden)
		}
	}
	after := s.only(t)
	if after.failures != 0 || !after.lastTried.Equal(before.lastTried) || !after.isTimed {
		t.Errorf("%d failures, last tried %v, was %v; timed %v", after.failures, after.lastTried,
			before.lastTried, after.isTimed)
	}
	s.backoff.least = time.Hour
	asked := len(f.Requests())
	if err := openAs(t, s, withToken(requestOf(t, 2), "wrong")); !errors.Is(err, volume.ErrForbidden) {
		t.Errorf("%v, want %v", err, volume.ErrForbidden)
	}
	s.refreshNow(t)
	if got := f.Requests(); len(got) != asked+1 || got[asked].Credentials.Password != "right" {
		t.Errorf("%d fetches, want %d, the last one with the right secret", len(got), asked+1)
	}
}

func TestRotatedSecretIsUsedAndAWrongOneIsNot(t *testing.T) {
	s, p, f := newContents(t)
	f.Judge(takes("old"))
	shown := requestOf(t, 1)
	shown.Source.Period = time.Hour
	fixture.Must(t, openAs(t, s, withToken(shown, "old")))
	shown.Published = true
	other := shown
	other.Target = requestOf(t, 2).Target
	other.Published = false
	fixture.Must(t, openAs(t, s, withToken(other, "old")))

	// kubelet brings the new secret to one pod after the other.
	f.Judge(takes("new"))
	fixture.Must(t, openAs(t, s, withToken(shown, "new")))
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	s.refreshNow(t)
	if got := fileOf(t, p, "site/x"); got != "two" {
		t.Errorf("the content is %q", got)
	}

	// A pod has a newer secret that is wrong: the server refuses it once, and the next refresh is
	// with that of the other pod.
	other.Published = true
	fixture.Must(t, openAs(t, s, withToken(other, "newer")))
	f.Commit(commitOf("c"), map[string]string{"x": "three"})
	s.refreshNow(t)
	if got := s.only(t); got.failures != 0 || got.commit != commitOf("b") {
		t.Errorf("%d failures, commit %s", got.failures, got.commit)
	}
	s.refreshNow(t)
	if got := fileOf(t, p, "site/x"); got != "three" {
		t.Errorf("the content is %q", got)
	}

	// Now all are wrong.
	f.Judge(takes("newest"))
	for range staleFailures + 1 {
		s.refreshNow(t)
	}
	if _, why, ok := s.Stale(shown.Target); !ok || !strings.Contains(why, "want another secret") {
		t.Errorf("stale: %v, %q", ok, why)
	}
	fixture.Must(t, openAs(t, s, withToken(shown, "newest"))) // it is published
	fixture.Eventually(t, "a new secret is tried at once", func() bool {
		_, _, stale := s.Stale(shown.Target)
		return !stale
	})
}

// The files beside the tree cannot be written after the exchange. Pods see the new tree, and the
// driver knows that.
func TestExchangeThatCouldNotBeFinishedIsFinishedLater(t *testing.T) {
	p := openPool(t, "p", disks.New(t, disks.Ext4, 0).Dir)
	f := fixture.NewFetcher(t)
	f.Commit(commitOf("a"), map[string]string{"x": "one", "y": "same"})
	s := startContents(t, f, p)
	fixture.Must(t, open(t, s, 1))
	dir, err := dirOf(p, s.only(t).id)
	fixture.Must(t, err)
	defer dir.Close()
	commitFile := filepath.Join(openat.Path(dir), volume.GitCommitFile)
	setImmutable(t, commitFile, fsImmutable)

	f.Commit(commitOf("b"), map[string]string{"x": "two", "y": "same"})
	s.refreshNow(t)
	if got := s.only(t); got.failures != 1 || got.commit != commitOf("b") {
		t.Errorf("%d failures, commit %s", got.failures, got.commit)
	}
	setImmutable(t, commitFile, 0)
	f.Commit(commitOf("c"), map[string]string{"x": "three", "y": "same"})
	s.refreshNow(t)
	if got := fileOf(t, p, "site/x") + fileOf(t, p, volume.GitCommitFile); got !=
		"three"+commitOf("c")+"\n" {
		t.Errorf("the content is %q, after %v", got, s.only(t).failures)
	}
}

// setImmutable does what chattr(1) does.
func setImmutable(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.Open(path)
	fixture.Must(t, err)
	defer f.Close()
	fixture.Must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags))
}

// Who has removed a file of the tree on the node gets it back with the next commit.
func TestTreeThatHasLostAFileIsWrittenAnew(t *testing.T) {
	s, p, f := newContents(t)
	f.Commit(commitOf("a"), map[string]string{"x": "one", "y": "same"})
	fixture.Must(t, open(t, s, 1))
	dir, err := dirOf(p, s.only(t).id)
	fixture.Must(t, err)
	defer dir.Close()
	fixture.Must(t, os.Remove(filepath.Join(openat.Path(dir), "site/y")))
	f.Commit(commitOf("b"), map[string]string{"x": "two", "y": "same"})
	s.refreshNow(t)
	if got := fileOf(t, p, "site/x"); got != "one" || s.only(t).failures != 1 {
		t.Errorf("the content is %q, after %d failures", got, s.only(t).failures)
	}
	s.refreshNow(t)
	if got := fileOf(t, p, "site/x") + fileOf(t, p, "site/y"); got != "twosame" {
		t.Errorf("the content is %q", got)
	}
}

func TestFetcherThatDiesLeavesTheLastContent(t *testing.T) {
	s, p, f := newContents(t)
	f.Cut()
	if err := open(t, s, 1); !errors.Is(err, volume.ErrNode) {
		t.Fatalf("%v, want %v", err, volume.ErrNode)
	}
	wantBuilding(t, p, 0)
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	s.backoff.least = 0
	fixture.Must(t, open(t, s, 1))
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	f.Cut()
	for range staleFailures {
		s.refreshNow(t)
	}
	if got := fileOf(t, p, "site/x"); got != "one" {
		t.Errorf("the content is %q", got)
	}
	if _, _, stale := s.Stale(requestOf(t, 1).Target); !stale {
		t.Error("nobody says that the content is not refreshed")
	}
	wantBuilding(t, p, 0)
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	s.refreshNow(t)
	if got := fileOf(t, p, "site/x"); got != "two" {
		t.Errorf("the content is %q", got)
	}
	if got := s.Stats(); got.Stale != 0 || got.Fetches[resultFailed] != 1+staleFailures {
		t.Errorf("%+v", got)
	}
}

// A pool whose disk has gone takes no tree. Its content is refreshed again when the disk is back.
func TestPoolThatGoesAndComesBack(t *testing.T) {
	s, p, f := newContents(t)
	fixture.Must(t, open(t, s, 1))
	away := fmt.Errorf("%w: its disk has gone", volume.ErrUnavailable)
	all, _ := s.opts.Pools.(*pools)
	all.breakWith(away)
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	for range staleFailures {
		s.refreshNow(t)
	}
	if _, why, stale := s.Stale(requestOf(t, 1).Target); !stale || !strings.Contains(why, "log") {
		t.Errorf("stale: %v, %q", stale, why)
	}
	all.breakWith(nil)
	s.refreshNow(t)
	if got := fileOf(t, p, "site/x"); got != "two" {
		t.Errorf("the content is %q", got)
	}
}

func TestStopEndsAFetch(t *testing.T) {
	s, p, f := newContents(t)
	release := f.Hold()
	defer release()
	opened := make(chan error)
	go func() { opened <- open(t, s, 1) }()
	fixture.Eventually(t, "the fetch has begun", func() bool { return len(f.Requests()) == 1 })
	s.Close()
	if err := <-opened; !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("%v, want %v", err, volume.ErrUnavailable)
	}
	if err := open(t, s, 2); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("%v, want %v", err, volume.ErrUnavailable)
	}
	if got := s.Stats().Contents; got != 0 {
		t.Errorf("%d contents are in use", got)
	}
	wantBuilding(t, p, 0)
	s.Sweep(t.Context()) // a sweep may be under way, too
	release()
	again := startContents(t, f, p)
	fixture.Must(t, open(t, again, 1))
}

// The pod goes while its content is refreshed, and the next one comes.
func TestUnpublishDuringRefresh(t *testing.T) {
	s, p, f := newContents(t)
	s.unused = 0
	fixture.Must(t, open(t, s, 1))
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	release := f.Hold()
	var refreshed sync.WaitGroup
	refreshed.Go(func() { s.refreshNow(t) })
	fixture.Eventually(t, "the refresh has begun", func() bool { return len(f.Requests()) == 2 })
	s.Release(requestOf(t, 1).Target)
	s.Sweep(t.Context())
	if got := len(p.GitContents()); got != 1 {
		t.Fatalf("%d contents during a fetch, want 1", got)
	}
	release()
	refreshed.Wait()
	if s.only(t).isTimed {
		t.Error("content that no pod shows is to be refreshed")
	}
	fixture.Must(t, open(t, s, 2))
	if got := fileOf(t, p, "site/x"); got != "two" {
		t.Errorf("the content is %q", got)
	}
	s.Release(requestOf(t, 2).Target)
	s.Sweep(t.Context())
	if got := len(p.GitContents()); got != 0 {
		t.Errorf("%d contents are left", got)
	}
}

// After a reboot the server takes a connection and says nothing. Content that the node has is
// shown, also to a pod with a secret that nobody can prove, and content that it has not is not.
func TestServerThatDoesNotAnswerIsAway(t *testing.T) {
	s, p, f := newContents(t)
	r := withToken(requestOf(t, 1), "right")
	fixture.Must(t, openAs(t, s, r))
	s.Close()
	release := f.Hold()
	defer release()
	s = startContents(t, f, p)
	s.patience = 10 * time.Millisecond
	fixture.Must(t, openAs(t, s, r))
	unknown := r
	unknown.Target, unknown.Source.Ref = requestOf(t, 2).Target, "other"
	if err := openAs(t, s, unknown); !errors.Is(err, volume.ErrBusy) ||
		!strings.Contains(err.Error(), "other") {
		t.Errorf("%v, want %v that says what is fetched", err, volume.ErrBusy)
	}
}
