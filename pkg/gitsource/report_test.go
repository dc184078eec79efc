package gitsource

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestReportTellsEachPodOnceForEachCause(t *testing.T) {
	s, _, f := newContents(t)
	s.backoff.most, s.opts.Rules.rules[0].MinPeriod = 10*time.Millisecond, 0
	show := func(pod int) {
		r := requestOf(t, pod)
		r.Source.Period = 5 * time.Millisecond
		r.Source.SizeBytes = 1 << 20
		dir, err := s.Open(t.Context(), r)
		fixture.Must(t, err)
		dir.Close()
	}
	report := func(pod int) error { return s.Report(requestOf(t, pod).Target) }
	quiet := func(pod int, why string) {
		t.Helper()
		if err := report(pod); err != nil {
			t.Errorf("%s: pod %d is told: %v", why, pod, err)
		}
	}
	wantEach := func(cause string) {
		t.Helper()
		for pod := range 2 {
			var err error
			fixture.Eventually(t, cause+" is told", func() bool {
				err = report(pod)
				return err != nil && strings.Contains(err.Error(), cause)
			})
			if !errors.Is(err, volume.ErrStale) || errors.Is(err, volume.ErrForbidden) ||
				!strings.Contains(err.Error(), strings.Repeat("a", shortCommit)+":") {
				t.Errorf("%v: want only %v, and the commit", err, volume.ErrStale)
			}
			show(pod) // as kubelet calls again
			quiet(pod, "told before")
		}
	}
	show(0)
	show(1)
	quiet(0, "all is well")

	f.Fail(gitwire.Unreachable, "no route to host")
	wantEach("unreachable: no route to host")
	f.Fail(gitwire.Unauthorized, strings.Repeat("x", 2*maxReport))
	wantEach("unauthorized: xxx")
	f.Commit(strings.Repeat("a", 40), map[string]string{"x": "one"})
	fixture.Eventually(t, "it is fetched", func() bool { return s.Stats().Stale == 0 })
	quiet(0, "fetched again")
	quiet(1, "fetched again")
	f.Fail(gitwire.Unauthorized, "again")
	wantEach("unauthorized: again")

	s.Release(requestOf(t, 0).Target)
	quiet(0, "unpublished")
}

func TestStatsSayWhenTheLeastFreshContentWasFetched(t *testing.T) {
	s, _, _ := newContents(t)
	show := func(ref string, pod int, period time.Duration) {
		r := requestOf(t, pod)
		r.Source.Ref, r.Source.Period = ref, period
		dir, err := s.Open(t.Context(), r)
		fixture.Must(t, err)
		dir.Close()
	}
	show("once", 0, 0)
	if got := s.Stats().LeastRecent; !got.IsZero() {
		t.Errorf("%v, and nothing is refreshed", got)
	}
	before := time.Now()
	show("main", 1, time.Hour)
	between := time.Now()
	show("other", 2, time.Hour)
	if got := s.Stats().LeastRecent; got.Before(before) || got.After(between) {
		t.Errorf("%v, want between %v and %v", got, before, between)
	}
	s.Release(requestOf(t, 1).Target)
	if got := s.Stats().LeastRecent; !got.After(between) {
		t.Errorf("%v, want after %v: no pod shows the older one", got, between)
	}
}
