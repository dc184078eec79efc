package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// requestTimeout bounds how long a request may take to arrive.
	requestTimeout = 5 * time.Second
	// maxHeaderBytes bounds a request with its headers; those of kubelet and of scrapers have some
	// hundred bytes.
	maxHeaderBytes = 8 << 10
)

// poolMetrics is a prometheus.Collector. A scrape costs two system calls for each pool.
type poolMetrics struct {
	pools *poolSet

	ready, size, used, free, available, committed, trash, volumes, purgesFailing, quotaEnforced, unenforced *prometheus.Desc
	snapshots, snapshotBytes, copies, copiedBytes                                                           *prometheus.Desc
}

func newPoolMetrics(pools *poolSet) poolMetrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("csi_hostpath_pool_"+name, help, []string{"pool"}, nil)
	}
	return poolMetrics{
		pools: pools,
		ready: desc("ready",
			"Whether the pool is open and can be written to (1) or not (0); /readyz says why not."),
		size:      desc("size_bytes", "Size of the pool's filesystem."),
		used:      desc("used_bytes", "What is used of the pool's filesystem, by volumes and by others."),
		free:      desc("free_bytes", "Free space of the pool's filesystem."),
		available: desc("available_bytes", "The largest volume that could be made now."),
		committed: desc("committed_bytes", "What is promised to the volumes and snapshots of the pool."),
		trash:     desc("trash_bytes", "What was promised to deleted volumes that are not purged yet."),
		volumes:   desc("volumes", "Number of volumes."),
		snapshots: desc("snapshots", "Number of snapshots."),
		snapshotBytes: desc("snapshot_bytes",
			"What the snapshots can keep from being freed; part of committed_bytes."),
		copies:      desc("copies", "Number of snapshots, restores and clones that are being made."),
		copiedBytes: desc("copies_bytes", "What those have copied so far."),
		purgesFailing: desc(
			"purges_failing",
			"Number of deleted volumes whose data could not be purged and is tried again; the log says why.",
		),
		quotaEnforced: desc("quota_enforced",
			"Whether volumes cannot grow beyond their sizes (1) or can (0)."),
		unenforced: desc("volumes_unenforced",
			"Number of volumes that can grow beyond their size; the log of the start says which, and why."),
	}
}

// Describe implements prometheus.Collector.
func (m poolMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.ready, m.size, m.used, m.free, m.available, m.committed, m.trash, m.volumes, m.purgesFailing, m.quotaEnforced, m.unenforced,
		m.snapshots, m.snapshotBytes, m.copies, m.copiedBytes,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m poolMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, slot := range m.pools.snapshot() {
		gauge := func(d *prometheus.Desc, value int64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), slot.config.Name)
		}
		status, err := slot.status()
		if err != nil {
			gauge(m.ready, 0)
			continue
		}
		gauge(m.ready, 1)
		gauge(m.size, status.SizeBytes)
		gauge(m.used, status.UsedBytes)
		gauge(m.free, status.FreeBytes)
		gauge(m.available, status.AvailableBytes)
		gauge(m.committed, status.CommittedBytes)
		gauge(m.trash, status.TrashBytes)
		gauge(m.volumes, int64(status.Volumes))
		gauge(m.snapshots, int64(status.Snapshots))
		gauge(m.snapshotBytes, status.SnapshotBytes)
		gauge(m.copies, int64(status.Copies))
		gauge(m.copiedBytes, status.CopiedBytes)
		gauge(m.purgesFailing, int64(status.PurgesFailing))
		gauge(m.unenforced, int64(status.Unenforced))
		if slot.pool.EnforcesSizes() {
			gauge(m.quotaEnforced, 1)
		} else {
			gauge(m.quotaEnforced, 0)
		}
	}
}

func newRegistry(pools *poolSet) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newPoolMetrics(pools),
	)
	return registry
}

// newHTTPServer serves /metrics, /healthz (the process answers) and /readyz (every pool that must
// be open is; it names the optional ones that are not).
func newHTTPServer(registry *prometheus.Registry, pools *poolSet) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz",
		func(w http.ResponseWriter, _ *http.Request) { answer(w, nil, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, pools.notReady(), pools.notReadyOptional())
	})
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       requestTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	// Every pod of the cluster may reach it: connections that wait for another request would cost
	// memory until there is none left.
	server.SetKeepAlivesEnabled(false)
	return server
}

// answer is 200 unless there is an error; what is optional is only told.
func answer(w http.ResponseWriter, err, optional error) {
	if err != nil {
		http.Error(w, errors.Join(err, optional).Error(), http.StatusServiceUnavailable)
		return
	}
	text := "ok\n"
	if optional != nil {
		text += optional.Error() + "\n"
	}
	// the text has names of the configuration
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	// the prober has gone: nothing to do
	_, _ = w.Write([]byte(text))
}

// serveHTTP serves on the address, if there is one, until the context ends.
func serveHTTP(ctx context.Context, address string, server *http.Server) error {
	if address == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{Control: boundSocket}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("--metrics-address: %w", err)
	}
	listener = boundListener(ctx, listener, "metrics", maxHTTPConnections, oldestOfTheGreediest)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // Serve says what there is to say
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
