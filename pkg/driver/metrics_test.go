package driver

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/dashboards"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// scrape returns the driver's own lines of /metrics.
func scrape(t *testing.T, s *poolSet) []string {
	t.Helper()
	code, body := get(t, s, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics: %d %s", code, body)
	}
	var lines []string
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "csi_hostpath_pool_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func get(t *testing.T, s *poolSet, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	handler := newHTTPServer(t.Context(), newRegistry(s), s, &nodeChecks{}).Handler
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(body)
}

func TestMetricsCountWhatIsPromised(t *testing.T) {
	good, bad := config.NewPool("good",
		filepath.Join(t.TempDir(), "p")), config.NewPool("bad", foreign(t))
	good.Default, good.TrashRetention = true, time.Hour
	s := newPools(t, good, bad)
	if err := s.open(t.Context(), s.slots[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	p := s.slots[0].pool
	for _, v := range []string{"kept", "deleted"} {
		name, err := volume.ParseName(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Create(t.Context(), volume.CreateRequest{
			Name: name,
			Size: volume.SizeRange{Required: 1 << 20},
			Spec: volume.Spec{Type: volume.DirectoryOrCreate},
		}); err != nil {
			t.Fatal(err)
		}
		if v == "deleted" {
			if err := p.Delete(t.Context(), volume.NewID(p.ID(), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	lines := scrape(t, s)
	for _, want := range []string{
		`csi_hostpath_pool_ready{pool="good"} 1`,
		`csi_hostpath_pool_ready{pool="bad"} 0`,
		`csi_hostpath_pool_not_ready{pool="bad",reason="opening"} 1`,
		`csi_hostpath_pool_volumes{pool="good"} 1`,
		`csi_hostpath_pool_committed_bytes{pool="good"} 1.048576e+06`,
		`csi_hostpath_pool_trash_bytes{pool="good"} 1.048576e+06`,
		`csi_hostpath_pool_purges_failing{pool="good"} 0`,
		`csi_hostpath_pool_growths_failing{pool="good"} 0`,
		`csi_hostpath_pool_retired_quota_ids{pool="good"} 0`,
		`csi_hostpath_pool_volumes_overcharged{pool="good"} 0`,
		`csi_hostpath_pool_quota_enforced{pool="good"} 0`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	for _, name := range []string{"size_bytes", "used_bytes", "free_bytes", "available_bytes"} {
		if !slices.ContainsFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "csi_hostpath_pool_"+name+`{pool="good"} `) &&
				!strings.HasSuffix(l, " 0")
		}) {
			t.Errorf("no %s in\n%s", name, strings.Join(lines, "\n"))
		}
	}
}

func TestReadinessNamesTheOptionalPoolsThatAreMissing(t *testing.T) {
	spare := config.NewPool("spare", filepath.Join(t.TempDir(), "spare"))
	spare.Optional = true
	s := newPools(t, spare)
	if err := s.open(t.Context(), s.slots[0]); err == nil {
		t.Fatal("an absent pool was made")
	}
	const want = "ok\noptional pool spare: not ready: absent (the driver's log has more)\n"
	if code, body := get(t, s, "/readyz"); code != http.StatusOK || body != want {
		t.Errorf("/readyz: %d %s, want 200 and %s", code, body, want)
	}
}

// Any pod of the cluster may read the pages, so they have no path of the node. /statusz answers
// 200, because the API server's proxy drops the text of a 503.
func TestPagesSayWhyAPoolIsNotReadyAndNothingOfTheNode(t *testing.T) {
	s := newPools(t, config.NewPool("bad", foreign(t)))
	if err := s.open(t.Context(), s.slots[0]); err == nil {
		t.Fatal("a directory of somebody else was taken for a pool")
	}
	const want = "pool bad: not ready: foreign (the driver's log has more)\n"
	if code, body := get(t, s, "/readyz"); code != http.StatusServiceUnavailable || body != want {
		t.Errorf("/readyz: %d %s, want 503 and %s", code, body, want)
	}
	if code, body := get(t, s, "/statusz"); code != http.StatusOK || body != want {
		t.Errorf("/statusz: %d %s, want 200 and %s", code, body, want)
	}
	if lines := scrape(t, s); !slices.Contains(lines,
		`csi_hostpath_pool_not_ready{pool="bad",reason="foreign"} 1`) {
		t.Errorf("no reason in\n%s", strings.Join(lines, "\n"))
	}
	if code, body := get(t, s, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if code, _ := get(t, s, "/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("/debug/pprof/: %d, want 404", code)
	}
}

func TestStatusHasThePoolsThatAreReady(t *testing.T) {
	s := newPools(t, config.NewPool("good", filepath.Join(t.TempDir(), "p")))
	fixture.Must(t, s.open(t.Context(), s.slots[0]))
	t.Cleanup(func() { fixture.Must(t, s.close()) })
	if code, body := get(t, s, "/statusz"); code != http.StatusOK || body != "pool good: ready\n" {
		t.Errorf("/statusz: %d %s", code, body)
	}
}

// hanging is a registry that waits for its metrics until released is closed, as for a hanging disk.
type hanging struct {
	asked    atomic.Int32
	released chan struct{}
}

func (h *hanging) Gather() ([]*dto.MetricFamily, error) {
	h.asked.Add(1)
	<-h.released
	return nil, nil
}

func TestADiskThatHangsIsAskedOnceForAllRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{released: make(chan struct{})}
		defer close(h.released)
		handler := newHTTPServer(t.Context(), h, newPools(t), &nodeChecks{}).Handler
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				if w.Code != http.StatusInternalServerError ||
					!strings.Contains(w.Body.String(), errNoAnswer.Error()) {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		wg.Wait()
		if asked := h.asked.Load(); asked != 1 {
			t.Errorf("the registry was asked %d times", asked)
		}
	})
}

func TestBuildInfoHasTheVersion(t *testing.T) {
	_, body := get(t, newPools(t), "/metrics")
	if want := `version="` + version.Version + `"} 1`; !strings.Contains(body, "csi_hostpath_build_info{") ||
		!strings.Contains(body, want) {
		t.Errorf("no csi_hostpath_build_info with %s", want)
	}
}

// statfs(2) answers as before after a disk has died under an open pool.
func TestReadinessAndMetricsTellOfADeadDisk(t *testing.T) {
	disk := disks.New(t, disks.XFS, 0)
	s := newPools(t, config.NewPool("p", disk.Dir))
	if err := s.open(t.Context(), s.slots[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	disk.Shutdown(t)
	if code, body := get(t, s, "/readyz"); code != http.StatusServiceUnavailable ||
		!strings.Contains(body, "disk_failed") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if lines := scrape(t, s); !slices.Contains(lines, `csi_hostpath_pool_ready{pool="p"} 0`) {
		t.Errorf("the pool is ready in\n%s", strings.Join(lines, "\n"))
	}
}

// Operators look for a metric in the list of docs/operations.md.
func TestEveryMetricIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range metricNames(t) {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/operations.md lacks %s", name)
		}
	}
}

// An alert on a metric that does not exist never fires, and nobody would notice.
func TestAlertsAndDocumentsNameMetricsThatAre(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	chart := "../../deploy/helm/csi-hostpath/templates/"
	known, alerts := metricNames(t), chart+"prometheusrule.yaml"
	name := regexp.MustCompile(`csi_hostpath_(?:pool|git)_\w+`)
	for _, file := range append(files, alerts, chart+"NOTES.txt") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		named := name.FindAllString(string(text), -1)
		if file == alerts && len(named) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, n := range named {
			if !slices.Contains(known, n) {
				t.Errorf("%s names %s, which does not exist", file, n)
			}
		}
	}
}

func metricNames(t *testing.T) (names []string) {
	t.Helper()
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		poolMetrics{}.Describe(descriptions)
		gitMetrics{}.Describe(descriptions)
	}()
	for d := range descriptions {
		_, rest, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, ok := strings.Cut(rest, `"`)
		if !ok {
			t.Fatalf("%s has no name", d)
		}
		names = append(names, name)
	}
	return names
}

// Any pod of the cluster may connect and keep its connection open.
func TestNoConnectionIsKeptForAnotherRequest(t *testing.T) {
	s := newPools(t)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	fixture.Must(t, err)
	server := newHTTPServer(t.Context(), newRegistry(s), s, &nodeChecks{})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	fixture.Must(t, err)
	fixture.Must(t, client.SetDeadline(time.Now().Add(fixture.Patience())))
	_, err = io.WriteString(client, "GET /healthz HTTP/1.1\r\nHost: driver\r\n\r\n")
	fixture.Must(t, err)
	if answer, err := io.ReadAll(client); err != nil ||
		!strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") {
		t.Errorf("%q, %v: want an answer and the end of the connection", answer, err)
	}
	fixture.Must(t, errors.Join(client.Close(), server.Close()))
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// The chart's dashboards and alerts have metrics of a node's driver: they must exist.
func TestDashboardsAndRulesHaveMetricsOfTheDriver(t *testing.T) {
	registry := newRegistry(newPools(t))
	rpc.ServerOptions(rpc.Options{Registerer: registry})
	names := dashboards.Own(t, "../..", "csi_hostpath_pool_", "csi_hostpath_rpc_",
		"csi_hostpath_build_info", "grpc_server_", "process_", "go_")
	if missing := dashboards.Missing(registry, names); len(missing) > 0 {
		t.Errorf("the driver does not export %s", strings.Join(missing, ", "))
	}
}
