package driver

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

var poolLabel = []string{"pool"}

func poolMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("csi_hostpath_pool_"+name, help, poolLabel, nil)
}

var (
	poolReady        = poolMetric("ready", "Whether the pool is open (1) or not (0); the log says why not.")
	poolSize         = poolMetric("size_bytes", "Size of the pool's filesystem.")
	poolFree         = poolMetric("free_bytes", "Free space of the pool's filesystem.")
	poolAvailable    = poolMetric("available_bytes", "The largest volume that could be made now.")
	poolCommitted    = poolMetric("committed_bytes", "What is promised to the volumes of the pool.")
	poolTrash        = poolMetric("trash_bytes", "What was promised to deleted volumes that are not purged yet.")
	poolVolumes      = poolMetric("volumes", "Number of volumes.")
	poolPurgeFailing = poolMetric("purge_failing", "Whether the last purge of deleted data failed (1); the log says why.")
	poolQuota        = poolMetric("quota_enforced", "Whether a volume cannot grow beyond its size (1) or can (0).")
)

// poolMetrics is a prometheus.Collector. A scrape costs one system call for each pool.
type poolMetrics struct{ pools *poolSet }

// Describe implements prometheus.Collector.
func (m poolMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		poolReady, poolSize, poolFree, poolAvailable, poolCommitted, poolTrash, poolVolumes, poolPurgeFailing, poolQuota,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m poolMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, slot := range m.pools.snapshot() {
		gauge := func(d *prometheus.Desc, value float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, slot.config.Name)
		}
		if slot.pool == nil {
			gauge(poolReady, 0)
			continue
		}
		status, err := slot.pool.Status()
		if err != nil {
			gauge(poolReady, 0)
			continue
		}
		gauge(poolReady, 1)
		gauge(poolSize, float64(status.SizeBytes))
		gauge(poolFree, float64(status.FreeBytes))
		gauge(poolAvailable, float64(status.AvailableBytes))
		gauge(poolCommitted, float64(status.CommittedBytes))
		gauge(poolTrash, float64(status.TrashBytes))
		gauge(poolVolumes, float64(status.Volumes))
		gauge(poolPurgeFailing, boolValue(status.PurgeFailing))
		gauge(poolQuota, 0)
	}
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func newRegistry(pools *poolSet) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), poolMetrics{pools})
	return registry
}

// newHTTPServer serves /metrics, /healthz (the process answers) and /readyz (every pool that must be open is).
func newHTTPServer(registry *prometheus.Registry, pools *poolSet) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, pools.notReady()) })
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // the prober has gone: nothing to do
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
