package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/test/dashboards"
)

func get(t *testing.T, p pages, path string) (int, string) {
	t.Helper()
	answer := httptest.NewRecorder()
	p.registry = prometheus.NewRegistry()
	p.server().Handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer.Code, answer.Body.String()
}

func TestStatusHasALineForEachNode(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	all := []router.NodeStatus{
		{Name: "a", Linked: true, Since: at, DriverVersion: "v1", Pushed: true},
		{
			Name: "b", Linked: true, Since: at, DriverVersion: "v2", Pushed: true,
			NotReady: []router.PoolStatus{
				{Name: "fast", Reason: "io error"}, {Name: "spare", Optional: true, Reason: "absent"},
			},
		},
		{Name: "c", Linked: true, Since: at, DriverVersion: "v1"},
		{Name: "d", Since: at, Why: "the peer does not answer"},
	}
	const want = "3 of 4 nodes are linked to this replica\n" +
		"node a: linked since 2026-11-28T12:00:00Z (1m0s), driver v1\n" +
		"node b: linked since 2026-11-28T12:00:00Z (1m0s), driver v2; pool fast: not ready: io error; " +
		"optional pool spare: not ready: absent\n" +
		"node c: linked since 2026-11-28T12:00:00Z (1m0s), driver v1, has not sent the state of its pools\n" +
		"node d: not linked since 2026-11-28T12:00:00Z (1m0s): the peer does not answer\n"
	if got := describe(all, at.Add(time.Minute)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestReadyWhenThereIsACertificate(t *testing.T) {
	leader := &leadership{}
	failing := pages{
		ready: func() error { return errors.New("no certificate") }, status: leader.status,
	}
	if code, text := get(t, failing, "/readyz"); code != http.StatusServiceUnavailable ||
		text != "no certificate\n" {
		t.Errorf("%d %q", code, text)
	}
	if code, text := get(t, failing, "/statusz"); code != http.StatusOK ||
		text != "this replica is not the leader\n" {
		t.Errorf("%d %q: kubectl shows no text of another status", code, text)
	}
	leader.leading.Store(&lifecycle.Controller{})
	if _, text := get(t, failing, "/statusz"); !strings.Contains(text, "is the leader") {
		t.Errorf("%q", text)
	}
	for _, path := range []string{"/readyz", "/healthz"} {
		code, text := get(t, pages{ready: func() error { return nil }}, path)
		if code != http.StatusOK || text != "ok\n" {
			t.Errorf("%s: %d %q", path, code, text)
		}
	}
}

// The chart's dashboards and alerts have metrics of the controller: they must exist.
func TestDashboardsAndRulesHaveMetricsOfTheController(t *testing.T) {
	registry := serving.NewRegistry("csi_hostpath_controller_build_info")
	never := func() time.Time { return time.Time{} }
	registry.MustRegister(lifecycle.NewMetrics(), (&leadership{}).metric("a"),
		expiry("certificate", never), expiry("ca", never))
	defer router.New(router.Options{Registerer: registry}).Close()
	names := dashboards.Own(t, "../..", "csi_hostpath_controller_", "csi_hostpath_router_")
	if missing := dashboards.Missing(registry, names); len(missing) > 0 {
		t.Errorf("the controller does not export %s", strings.Join(missing, ", "))
	}
}
