package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/dashboards"
)

// kubeletMetrics are what dashboards have of kubelet's metrics, cAdvisor's included.
var kubeletMetrics = []string{
	"container_fs_reads_bytes_total",
	"container_fs_writes_bytes_total",
	"kubelet_volume_stats_available_bytes",
	"kubelet_volume_stats_capacity_bytes",
	"kubelet_volume_stats_inodes_free",
	"kubelet_volume_stats_inodes_used",
	"kubelet_volume_stats_used_bytes",
}

func TestChartHasDashboardsWhenAskedFor(t *testing.T) {
	find := func(values string) map[string]object {
		found := map[string]object{}
		for _, o := range render(t, values) {
			if o.Kind != "ConfigMap" {
				continue
			}
			for name := range o.Data {
				if strings.HasSuffix(name, ".json") {
					found[name] = o
				}
			}
		}
		return found
	}
	if found := find(""); len(found) > 0 {
		t.Errorf("%d dashboards, and nobody has asked for them", len(found))
	}
	found := find("grafanaDashboards: {enabled: true, labels: {mine: yes-please}}")
	for _, d := range dashboards.Load(t, "..") {
		name := "csi-hostpath-" + d.File
		o := found[name]
		if strings.TrimSpace(o.Data[name]) != strings.TrimSpace(d.Text) {
			t.Errorf("the chart's %s is not the file", name)
		}
		labels := o.Metadata.Labels
		if labels["grafana_dashboard"] != "1" || labels["mine"] != "yes-please" {
			t.Errorf("%s has the labels %v", name, labels)
		}
	}
}

// Grafana shows a panel without a unit or a data source too, but not what is meant.
func TestEveryPanelSaysWhatItShows(t *testing.T) {
	for _, d := range dashboards.Load(t, "..") {
		if !strings.HasPrefix(d.UID, "csi-hostpath-") || !slices.Contains(d.Tags, "csi-hostpath") ||
			d.Description == "" || !strings.HasPrefix(d.Title, "csi-hostpath / ") {
			t.Errorf("%s: UID %q, tags %q, title %q", d.File, d.UID, d.Tags, d.Title)
		}
		for i, v := range d.Templating.List {
			isSource := v.Type == "datasource"
			if isSource != (i == 0) || !isSource && !isChosen(v.Datasource) {
				t.Errorf("%s: variable %s of type %s", d.File, v.Name, v.Type)
			}
		}
		taken := map[int]bool{}
		for _, p := range d.Panels {
			where := d.File + ": " + p.Title
			if taken[p.ID] || !isChosen(p.Datasource) || len(p.Targets) == 0 {
				t.Errorf("%s: ID %d, data source %v, %d queries", where, p.ID, p.Datasource, len(p.Targets))
			}
			taken[p.ID] = true
			if p.Title == "" || p.FieldConfig.Defaults.Unit == "" ||
				!strings.HasSuffix(p.Description, ".") && !strings.HasSuffix(p.Description, ")") {
				t.Errorf("%s: unit %q, description %q", where, p.FieldConfig.Defaults.Unit, p.Description)
			}
		}
		checkPlaces(t, d)
	}
}

func isChosen(d dashboards.Datasource) bool {
	return d == dashboards.Datasource{Type: "prometheus", UID: "${datasource}"}
}

func checkPlaces(t *testing.T, d dashboards.Dashboard) {
	t.Helper()
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		at := p.GridPos
		if at.W <= 0 || at.H <= 0 || at.X+at.W > 24 {
			t.Errorf("%s: %s is at %+v", d.File, p.Title, at)
		}
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s: %s covers %s", d.File, p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// A query for a metric that nobody has shows an empty panel, and its alert never fires. pkg/driver
// and the controller compare their own metrics with what they export.
func TestDashboardsAndRulesHaveKnownMetrics(t *testing.T) {
	recorded := map[string]bool{}
	queries := map[string]string{}
	for _, r := range rulesOf(t, "prometheusRule: {enabled: true}") {
		recorded[r.Record] = true
		queries[r.Expr] = r.Record + r.Alert
	}
	for _, d := range dashboards.Load(t, "..") {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				queries[target.Expr] = d.File + ": " + p.Title
			}
		}
	}
	prefixes := []string{"csi_hostpath_", "grpc_server_", "process_", "go_"}
	for query, where := range queries {
		for _, name := range dashboards.Metrics(query) {
			has := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
			if !recorded[name] && !slices.Contains(kubeletMetrics, name) &&
				!slices.ContainsFunc(prefixes, has) {
				t.Errorf("%s: who has the metric %s?", where, name)
			}
		}
	}
}
