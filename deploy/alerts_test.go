package deploy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// alerts is what the tests look at in a PrometheusRule.
type alerts struct {
	Groups []struct {
		Rules []alert `yaml:"rules"`
	} `yaml:"groups"`
}

type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

const runbooks = "https://github.com/csi-hostpath/csi-hostpath/blob/main/docs/operations.md"

func alertsOf(t *testing.T, values string) (list []alert) {
	t.Helper()
	for _, group := range only(t, render(t, values), "PrometheusRule").Spec.Groups {
		list = append(list, group.Rules...)
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

// A pod's name says nothing about where the disk is.
func TestEveryAlertNamesItsNode(t *testing.T) {
	for _, a := range alertsOf(t, "prometheusRule: {enabled: true}") {
		summary := a.Annotations["summary"]
		if !strings.Contains(summary, "{{ or $labels.node $labels.instance }}") ||
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
