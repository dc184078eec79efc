package driver

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestStatusSaysWhatContentOfGitPodsSee(t *testing.T) {
	disks.RequireRoot(t)
	n, p := newToldPools(t)
	commit := strings.Repeat("a", 40)
	f := fixture.NewFetcher(t)
	f.Commit(commit, map[string]string{"index.html": "x"})
	prefix, err := volume.ParseGitPrefix("ssh://git.example.com/")
	fixture.Must(t, err)
	n.git = gitsource.New(context.WithoutCancel(t.Context()), gitsource.Options{
		Rules: gitsource.NewRules([]gitsource.Rule{{Prefix: prefix, MaxSizeBytes: 1 << 30}}),
		Pools: n.pools, Fetch: gitsource.At(f.Socket),
	})
	t.Cleanup(n.git.Close)
	url, err := volume.ParseGitURL("ssh://deploy@git.example.com/team/site.git")
	fixture.Must(t, err)
	const uid = "6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7a2f1"
	target, err := mount.ParseTarget("/k", "/k/pods/"+uid+"/volumes/kubernetes.io~csi/site/mount")
	fixture.Must(t, err)
	show := func() {
		dir, err := n.git.Open(t.Context(), gitsource.Request{
			Use: gitsource.Use{
				Source: volume.GitSource{
					URL: url, Ref: "main", Depth: 1, SizeBytes: 1 << 20, Period: time.Millisecond,
				},
				Namespace: "web",
			},
			Target: target, Pool: "a",
			Secret: map[string]string{"ssh-privatekey": "very secret", "known_hosts": "very public"},
		})
		fixture.Must(t, err)
		dir.Close()
	}
	show()

	id := p.GitContents()[0].ID.String()
	told := func() status.Volume {
		v, err := n.Volume(t.Context(), id)
		fixture.Must(t, err)
		text, err := json.Marshal(v)
		fixture.Must(t, err)
		for _, secret := range []string{"very", "deploy@"} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s has %q", text, secret)
			}
		}
		return v
	}
	v := told()
	if v.Kind != status.GitTree || !v.Inline || len(v.Faults) > 0 || v.Git.Fetched.IsZero() ||
		v.Git.URL != "ssh://git.example.com/team/site.git" || v.Git.Ref != "main" ||
		v.Git.Commit != commit || len(v.Pods) != 1 || v.Pods[0].UID != uid {
		t.Errorf("%+v of %+v", v.Git, v)
	}

	f.Fail(gitwire.Unauthorized, "the server wants another secret")
	fixture.Eventually(t, "the content is stale", func() bool {
		v := told()
		return len(v.Faults) == 1 && v.Faults[0] == string(volume.FaultGitStale) && v.Git.Commit == commit
	})

	n.git = nil // as after a start, before kubelet has published anything again
	v = told()
	if v.Kind != status.GitTree || v.Git.URL == "" || v.Git.Commit != "" || len(v.Pods) > 0 {
		t.Errorf("after a start: %+v of %+v", v.Git, v)
	}
}

func TestOnlyVolumesOfClaimsArePushedAsStale(t *testing.T) {
	const ofClass = "host-0123456789ab-pvc-1"
	handles := []string{"by-hand", "csi-" + strings.Repeat("ab", 32), ofClass}
	var got []string
	for _, v := range stalePushed(handles) {
		got = append(got, v.GetId())
		if !slices.Equal(v.GetFaults(), []string{"git_stale"}) {
			t.Errorf("%v", v)
		}
	}
	if !slices.Equal(got, []string{"by-hand", ofClass}) {
		t.Errorf("%q are pushed", got)
	}
	if n := len(stalePushed(slices.Repeat(handles, maxPushedUnhealthy))); n != maxPushedUnhealthy {
		t.Errorf("%d are pushed, want %d", n, maxPushedUnhealthy)
	}
}
