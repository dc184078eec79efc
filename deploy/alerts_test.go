package deploy_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// alerts is what the tests look at in a PrometheusRule.
type alerts struct {
	Groups []struct {
		Rules []alert `yaml:"rules"`
	} `yaml:"groups"`
}

// monitor is what the tests look at in a PodMonitor.
type monitor struct {
	Endpoints []struct {
		Port        string `yaml:"port"`
		Relabelings []struct {
			TargetLabel string `yaml:"targetLabel"`
		} `yaml:"relabelings"`
	} `yaml:"podMetricsEndpoints"`
}

// alert is a rule: either an alert, or what Prometheus is to record.
type alert struct {
	Alert       string            `yaml:"alert"`
	Record      string            `yaml:"record"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

const runbooks = "https://github.com/csi-hostpath/csi-hostpath/blob/main/docs/operations.md"

func rulesOf(t *testing.T, values string) (list []alert) {
	t.Helper()
	for _, group := range only(t, render(t, values), "PrometheusRule").Spec.Groups {
		list = append(list, group.Rules...)
	}
	return list
}

func alertsOf(t *testing.T, values string) (list []alert) {
	t.Helper()
	for _, r := range rulesOf(t, values) {
		if r.Record == "" {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		t.Fatal("the chart has no alerts")
	}
	return list
}

// Who is woken by an alert gets the address of its section in docs/operations.md.
func TestEveryAlertHasARunbook(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	headings := regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(page), -1)
	for _, heading := range headings {
		anchors[strings.ToLower(strings.ReplaceAll(heading[1], " ", "-"))] = true
	}
	for _, a := range alertsOf(t, "prometheusRule: {enabled: true}") {
		address, anchor, _ := strings.Cut(a.Annotations["runbook_url"], "#")
		if !anchors[anchor] || anchor != strings.ToLower(a.Alert) {
			t.Errorf("%s: docs/operations.md has no section %q", a.Alert, anchor)
		}
		if address != runbooks {
			t.Errorf("%s: the runbook is %s, want %s", a.Alert, address, runbooks)
		}
	}
	const chosen = "https://wiki/storage"
	for _, a := range alertsOf(t, "prometheusRule: {enabled: true, runbooks: '"+chosen+"'}") {
		if url := a.Annotations["runbook_url"]; !strings.HasPrefix(url, chosen+"#csihostpath") {
			t.Errorf("%s: the runbook is %s, not the chosen one", a.Alert, url)
		}
	}
}

// A pod's name says nothing about where the disk is. Alerts of the controller name the node that
// they are about, if there is one.
func TestEveryAlertNamesItsNode(t *testing.T) {
	for _, a := range alertsOf(t, "prometheusRule: {enabled: true}") {
		summary, node := a.Annotations["summary"], "{{ or $labels.node $labels.instance }}"
		switch {
		case strings.Contains(a.Expr, "by (namespace, node) (csi_hostpath_controller_"):
			node = "{{ $labels.node }}"
		case strings.Contains(a.Expr, "csi_hostpath_controller_"):
			node = "ontroller "
		}
		if !strings.Contains(summary, node) ||
			strings.Contains(summary, "$labels.pod ") || a.Labels["severity"] == "" {
			t.Errorf("%s says %q, severity %q", a.Alert, summary, a.Labels["severity"])
		}
	}
}

// Volumes that can exceed their sizes are told of, whether their pool has quotas or not.
func TestUnenforcedSizesHaveAnAlertOnEveryPool(t *testing.T) {
	enforced := map[string]bool{}
	for _, a := range alertsOf(t, "prometheusRule: {enabled: true}") {
		rest, ok := strings.CutPrefix(a.Expr,
			"csi_hostpath_pool_volumes_unenforced > 0 and csi_hostpath_pool_quota_enforced == ")
		if ok {
			enforced[rest] = true
		}
	}
	if !enforced["0"] || !enforced["1"] {
		t.Errorf("alerts only for pools whose quota_enforced is %v", enforced)
	}
}

// A metric with a label of its own must not get another value of it from the monitor.
func TestMonitorGivesNodesToDriversOnly(t *testing.T) {
	seen := map[bool]int{}
	for _, o := range render(t, "podMonitor: {enabled: true}") {
		if o.Kind != "PodMonitor" {
			continue
		}
		for _, e := range o.Spec.Endpoints {
			ofNode := o.Metadata.Name == driverPods
			seen[ofNode]++
			if got := len(e.Relabelings) > 0; got != ofNode {
				t.Errorf("%s, port %s: relabelings %v", o.Metadata.Name, e.Port, e.Relabelings)
			}
		}
	}
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("monitors of drivers have %d ports, others %d", seen[true], seen[false])
	}
}

// Each deployment has the alerts of what runs in it.
func TestAlertsOfTheControllerAreThoseOfTheDeployment(t *testing.T) {
	only := []string{
		"CSIHostpathNodeNotLinked", "CSIHostpathNodeGone", "CSIHostpathOrphanedVolumes",
		"CSIHostpathCertificateEnds",
	}
	for values, want := range map[string][]string{
		"deployment: central":                        append([]string{"CSIHostpathNoLeader"}, only...),
		"deployment: node":                           {"CSIHostpathNoLeader"},
		"deployment: node, placer: {enabled: false}": nil,
	} {
		var got []string
		for _, a := range alertsOf(t, "{prometheusRule: {enabled: true}, "+values+"}") {
			if strings.Contains(a.Expr, "csi_hostpath_controller_") {
				got = append(got, a.Alert)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: alerts %q, want %q", values, got, want)
		}
	}
}
