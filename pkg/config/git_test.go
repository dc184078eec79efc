package config

import (
	"strings"
	"testing"
	"time"
)

func TestGitSourcesAreReadAndTheirFaultsNamed(t *testing.T) {
	const pools = header + "pools: [{name: a, path: /a}]\n"
	got, err := load(t, pools+"gitSources:\n- {urlPrefix: https://h/team/, maxSize: 1Gi}\n"+
		"- {urlPrefix: ssh://h/a, maxSize: 1, minPeriod: 1s, namespaces: [web], addresses: [10.0.0.0/8]}\n")
	if err != nil {
		t.Fatal(err)
	}
	if g := got.GitSources[0]; g.MaxSize != 1<<30 || g.MinPeriod != time.Minute {
		t.Errorf("%+v", g)
	}
	for _, tc := range []struct{ rule, want string }{
		{"maxSize: 1Gi", "urlPrefix"},
		{"urlPrefix: https://h/", "maxSize: 0 must be a size of 1 byte or more"},
		{"urlPrefix: https://u@h/, maxSize: 1Gi", "want no user"},
		{"urlPrefix: https://h, maxSize: 1Gi", "urlPrefix"},
		{"urlPrefix: https://h/, maxSize: 1Gi, minPeriod: 0s", "minPeriod: 0s must be 1s to"},
		{"urlPrefix: https://h/, maxSize: 1Gi, namespaces: [A]", "is no name of a namespace"},
		{"urlPrefix: https://h/, maxSize: 1Gi, addresses: [10.1.2.3/8]", "must be a network"},
		{"urlPrefix: https://h/, maxSize: 1Gi, period: 1s", "unknown key"},
	} {
		_, err := load(t, pools+"gitSources:\n- {"+tc.rule+"}\n")
		if err == nil || !strings.Contains(err.Error(), tc.want) ||
			!strings.Contains(err.Error(), "gitSources[0]") {
			t.Errorf("%s: %v, want %q", tc.rule, err, tc.want)
		}
	}
}
