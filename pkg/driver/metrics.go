package driver

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// poolGauge is a metric of an open pool.
type poolGauge struct {
	desc  *prometheus.Desc
	value func(p *pool.Pool, s pool.Status) int64
}

func poolDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("csi_hostpath_pool_"+name, help, []string{"pool"}, nil)
}

var (
	poolReady = prometheus.NewDesc("csi_hostpath_pool_ready",
		"Whether the pool is open and can be written to (1) or not (0).", []string{"pool"}, nil)
	poolNotReady = prometheus.NewDesc("csi_hostpath_pool_not_ready",
		"1 for a pool that cannot be used, with the reason; absent for a ready pool.",
		[]string{"pool", "reason"}, nil)
	poolUnhealthy = prometheus.NewDesc("csi_hostpath_pool_unhealthy_volumes",
		"Number of volumes with a fault that the pool knows. A volume may have several.",
		[]string{"pool", "fault"}, nil)
	poolGauges = []poolGauge{
		{
			poolDesc("size_bytes", "Size of the pool's filesystem."),
			func(_ *pool.Pool, s pool.Status) int64 { return s.SizeBytes },
		},
		{
			poolDesc("used_bytes", "Used space of the pool's filesystem, by volumes and by others."),
			func(_ *pool.Pool, s pool.Status) int64 { return s.UsedBytes },
		},
		{
			poolDesc("free_bytes", "Free space of the pool's filesystem."),
			func(_ *pool.Pool, s pool.Status) int64 { return s.FreeBytes },
		},
		{
			poolDesc("available_bytes", "Size of the largest volume that can be created now."),
			func(_ *pool.Pool, s pool.Status) int64 { return s.AvailableBytes },
		},
		{
			poolDesc("committed_bytes", "What is promised to the volumes and snapshots of the pool."),
			func(_ *pool.Pool, s pool.Status) int64 { return s.CommittedBytes },
		},
		{
			poolDesc("trash_bytes", "What was promised to deleted volumes that are not purged yet."),
			func(_ *pool.Pool, s pool.Status) int64 { return s.TrashBytes },
		},
		{
			poolDesc("volumes", "Number of volumes."),
			func(_ *pool.Pool, s pool.Status) int64 { return int64(s.Volumes) },
		},
		{
			poolDesc("snapshots", "Number of snapshots."),
			func(_ *pool.Pool, s pool.Status) int64 { return int64(s.Snapshots) },
		},
		{
			poolDesc("snapshot_bytes", "What the snapshots can keep from being freed; part of committed_bytes."),
			func(_ *pool.Pool, s pool.Status) int64 { return s.SnapshotBytes },
		},
		{
			poolDesc("copies", "Number of snapshots, restores and clones that are being made."),
			func(_ *pool.Pool, s pool.Status) int64 { return int64(s.Copies) },
		},
		{
			poolDesc("copies_bytes", "What those have copied so far."),
			func(_ *pool.Pool, s pool.Status) int64 { return s.CopiedBytes },
		},
		{
			poolDesc("purges_failing", "Number of deleted volumes whose data could not be purged. The driver tries again; the log says why."),
			func(_ *pool.Pool, s pool.Status) int64 { return int64(s.PurgesFailing) },
		},
		{
			poolDesc("volumes_unenforced", "Number of volumes that can grow beyond their size. The log of the start says which, and why."),
			func(_ *pool.Pool, s pool.Status) int64 { return int64(s.Unenforced) },
		},
		{
			poolDesc("growths_failing", "Number of volumes whose filesystem could not be grown to their size. The driver tries again; the log says why."),
			func(_ *pool.Pool, s pool.Status) int64 { return int64(s.GrowthsFailing) },
		},
		{
			poolDesc("retired_quota_ids", "Number of deleted volumes for whose project ID something else counts: "+
				"files of other volumes, or deleted files that a process has open. The log says which IDs."),
			func(_ *pool.Pool, s pool.Status) int64 { return int64(s.Retired) },
		},
		{
			poolDesc("volumes_overcharged", "Number of full volumes for whose project ID more counts than "+
				"their files: files of other volumes, or deleted files that a process has open. The log says "+
				"which volumes."),
			func(_ *pool.Pool, s pool.Status) int64 { return int64(s.Overcharged) },
		},
		{
			poolDesc("quota_enforced",
				"Whether volumes cannot grow beyond their sizes (1) or can (0)."),
			func(p *pool.Pool, _ pool.Status) int64 {
				if p.Filesystem().EnforcesSizes {
					return 1
				}
				return 0
			},
		},
	}
)

// poolMetrics is a prometheus.Collector. A scrape costs two system calls for each pool.
type poolMetrics struct{ pools *poolSet }

// Describe implements prometheus.Collector.
func (poolMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- poolReady
	ch <- poolNotReady
	ch <- poolUnhealthy
	for _, g := range poolGauges {
		ch <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (m poolMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	for _, p := range m.pools.statuses() {
		name := p.config.Name
		if p.err != nil {
			gauge(poolReady, 0, name)
			gauge(poolNotReady, 1, name, string(volume.ReasonOf(p.err)))
			continue
		}
		gauge(poolReady, 1, name)
		for fault, volumes := range p.status.Faults {
			gauge(poolUnhealthy, int64(volumes), name, string(fault))
		}
		for _, g := range poolGauges {
			gauge(g.desc, g.value(p.pool, p.status), name)
		}
	}
}

func newRegistry(pools *poolSet) *prometheus.Registry {
	registry := serving.NewRegistry("csi_hostpath_build_info")
	registry.MustRegister(poolMetrics{pools})
	return registry
}
