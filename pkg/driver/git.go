package driver

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// newGitContents makes what a node has of git repositories. It asks nobody before a pod does. The
// caller closes it.
func newGitContents(ctx context.Context, cfg config.Config, pools *poolSet) *gitsource.Contents {
	return gitsource.New(ctx, gitsource.Options{
		Rules: cfg.GitRules(), Pools: pools, Fetch: gitsource.At(cfg.GitFetcherSocket),
	})
}

var (
	gitContents = prometheus.NewDesc("csi_hostpath_git_contents",
		"Number of contents of git repositories that pods of the node show.", nil, nil)
	gitStaleContents = prometheus.NewDesc("csi_hostpath_git_stale_contents",
		"Number of those that could not be refreshed. The log says which, and why.", nil, nil)
	gitLastSuccess = prometheus.NewDesc("csi_hostpath_git_last_success_timestamp_seconds",
		"Unix time of the last successful fetch of the content for which that is longest ago, of those "+
			"that are refreshed. Missing before the first fetch.", nil, nil)
	gitFetches = prometheus.NewDesc("csi_hostpath_git_fetches_total",
		"Number of fetches of git repositories since the start.", []string{"result"}, nil)
)

// gitMetrics is a prometheus.Collector. A scrape costs no system call.
type gitMetrics struct{ contents *gitsource.Contents }

// Describe implements prometheus.Collector.
func (gitMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- gitContents
	ch <- gitStaleContents
	ch <- gitLastSuccess
	ch <- gitFetches
}

// Collect implements prometheus.Collector.
func (m gitMetrics) Collect(ch chan<- prometheus.Metric) {
	stats := m.contents.Stats()
	ch <- prometheus.MustNewConstMetric(gitContents, prometheus.GaugeValue, float64(stats.Contents))
	ch <- prometheus.MustNewConstMetric(gitStaleContents, prometheus.GaugeValue, float64(stats.Stale))
	if at := stats.LeastRecent; !at.IsZero() {
		ch <- prometheus.MustNewConstMetric(gitLastSuccess, prometheus.GaugeValue,
			float64(at.UnixMilli())/1e3)
	}
	for result, n := range stats.Fetches {
		ch <- prometheus.MustNewConstMetric(gitFetches, prometheus.CounterValue, float64(n), result)
	}
}

// addGit says what a volume with content of git shows, and to whom: pods ask for it by another ID.
func (n *nodeStatus) addGit(v *status.Volume, d pool.VolumeDetails) {
	shown := n.git.Shown(d.ID)
	url, err := volume.ParseGitURL(d.Owner.Git)
	if err != nil {
		url = volume.GitURL{} // of another version: what would be a user in it is not known
	}
	v.Inline, v.Kind = true, status.GitTree
	v.Pods = n.publications.PodsAt(shown.Targets, maxShownPods)
	v.Git = &status.Git{URL: url.WithoutUser().String(), Ref: shown.Ref, Commit: shown.Commit}
	if !shown.Fetched.IsZero() {
		v.Git.Fetched = shown.Fetched.UTC().Truncate(time.Second)
	}
	if shown.IsStale {
		v.Faults = append(v.Faults, string(volume.FaultGitStale))
	}
}

// describeStale says which volumes of claims have content of git that cannot be refreshed. What a
// pod has of its own is told to the pod.
func (s services) describeStale() []*linkpb.UnhealthyVolume {
	return stalePushed(s.node.Publications.VolumesAt(s.git.StaleTargets()))
}

func stalePushed(handles []string) (stale []*linkpb.UnhealthyVolume) {
	for _, handle := range handles {
		if !volume.IsInlineHandle(handle) && len(stale) < maxPushedUnhealthy {
			stale = append(stale, &linkpb.UnhealthyVolume{
				Id: handle, Faults: []string{string(volume.FaultGitStale)},
			})
		}
	}
	return stale
}
