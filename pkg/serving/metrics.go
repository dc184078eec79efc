package serving

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// NewRegistry has the metrics of the process, and buildInfo, whose labels say which program it is.
func NewRegistry(buildInfo string) *prometheus.Registry {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: buildInfo,
		Help: "Always 1; the labels say which version this is.",
		ConstLabels: prometheus.Labels{
			"version":    version.Version,
			"go_version": runtime.Version(),
			"platform":   runtime.GOOS + "/" + runtime.GOARCH,
		},
	})
	build.Set(1)
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
	)
	return registry
}
