package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestPlacerLeadsAndWatchesWithTheRightsThatTheChartGivesIt(t *testing.T) {
	server := apiserver.ForTest(t)
	applyChart(t, server, "node")
	c := &cluster{t: t}
	var err error
	c.client, err = server.Admin()
	fixture.Must(t, err)
	pod, err := apiserver.CreatePod(t.Context(), c.client, "placer-1", nodeName, placerAccount)
	fixture.Must(t, err)
	kubeconfig, err := server.PodKubeconfig(t.Context(), pod)
	fixture.Must(t, err)
	metrics := freeAddress(t)
	c.pages = "http://" + metrics
	c.args = []string{
		"place", "--kubeconfig=" + kubeconfig, "--identity=" + identityOf(pod), "--namespace=default",
		"--metrics-address=" + metrics,
		"--v=2",
	}
	t.Cleanup(func() {
		c.killController()
		if t.Failed() {
			t.Logf("the placer's log:\n%s", c.log.String())
		}
	})
	c.startController()
	fixture.Eventually(t, "the placer has read the cluster's objects", func() bool {
		log := c.log.String()
		return strings.Contains(log, "*v1.PersistentVolumeClaim") &&
			strings.Count(log, "Caches populated") >= 5
	}, func() any { return c.log.String() })
	if code, text := c.page("/metrics"); code != http.StatusOK ||
		!strings.Contains(text, "csi_hostpath_controller_placements_total 0") {
		t.Errorf("metrics: %d\n%s", code, text)
	}
	c.stopController()
	if strings.Contains(c.log.String(), "forbidden") {
		t.Error("the chart does not give the placer what it needs")
	}
}
