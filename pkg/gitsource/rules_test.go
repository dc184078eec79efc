package gitsource

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestRulesAllowWhatOneOfThemAllows(t *testing.T) {
	prefix := func(text string) volume.GitURL {
		url, err := volume.ParseGitPrefix(text)
		fixture.Must(t, err)
		return url
	}
	rules := NewRules([]Rule{
		{
			Prefix: prefix("https://h/team/"), Namespaces: []string{"web"}, MaxSizeBytes: 100,
			MinPeriod: time.Minute,
		},
		{Prefix: prefix("https://h/team/public/"), MaxSizeBytes: 10, MinPeriod: time.Hour},
	})
	for _, tc := range []struct {
		url, namespace string
		size           int64
		period         time.Duration
		refusal        string // "" where it is allowed
	}{
		{"https://h/team/site", "web", 100, time.Minute, ""},
		{"https://h/team/site", "web", 100, 0, ""},         // it is fetched once
		{"https://h/team/site", "web", 0, time.Minute, ""}, // a claim of unknown size
		{"https://h/team/site", "web", 101, time.Minute, "at most 100 bytes (maxSize), and size is 101"},
		{"https://h/team/site", "web", 1, time.Second, "1m0s or more (minPeriod), and period is 1s"},
		{"https://h/team/site", "web2", 1, time.Minute, "for the namespaces [web]"},
		{"https://h/team/site", "", 1, time.Minute, "--extra-create-metadata"},
		{"https://h/team/public/site", "other", 10, time.Hour, ""},
		{"https://h/team/public/site", "", 10, time.Hour, ""},
		{"https://h/team/public/site", "web", 100, time.Minute, ""}, // by the first one
		{"https://h/team/public/site", "other", 11, time.Hour, "; the one for https://h/team/public/"},
		{"https://h/teams/site", "web", 1, time.Hour, "none for the URL"},
		{"https://h2/team/site", "web", 1, time.Hour, "none for the URL"},
		{"ssh://h/team/site", "web", 1, time.Hour, "none for the URL"},
		{"https://h:8443/team/site", "web", 1, time.Hour, "none for the URL"},
	} {
		url, err := volume.ParseGitURL(tc.url)
		fixture.Must(t, err)
		err = rules.Check(Use{
			Namespace: tc.namespace,
			Source:    volume.GitSource{URL: url, SizeBytes: tc.size, Period: tc.period},
		})
		switch {
		case tc.refusal == "" && err != nil:
			t.Errorf("%+v: %v", tc, err)
		case tc.refusal != "" && !errors.Is(err, volume.ErrForbidden),
			tc.refusal != "" && !strings.Contains(err.Error(), tc.refusal):
			t.Errorf("%+v: %v, want %v that says %q", tc, err, volume.ErrForbidden, tc.refusal)
		}
	}
}

func TestWithoutRulesNothingIsAllowed(t *testing.T) {
	use := requestOf(t, 1).Use
	for what, s := range map[string]*Contents{
		"none": nil, "without rules": New(t.Context(), Options{Rules: NewRules(nil), Pools: &pools{}}),
	} {
		_, err := s.Open(t.Context(), Request{Use: use, Target: requestOf(t, 1).Target})
		for _, err := range []error{err, s.Check(use)} {
			if !errors.Is(err, volume.ErrForbidden) || !strings.Contains(err.Error(), "switched off") {
				t.Errorf("%s: %v, want %v that says how to switch it on", what, err, volume.ErrForbidden)
			}
		}
		s.Release(requestOf(t, 1).Target)
		s.Sweep(t.Context())
		if _, _, stale := s.Stale(requestOf(t, 1).Target); stale || s.Stats().Contents != 0 {
			t.Errorf("%s: there is content", what)
		}
		s.Close()
	}
}
