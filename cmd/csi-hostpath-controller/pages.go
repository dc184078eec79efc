package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
)

// pages are what probes, scrapers and people read.
type pages struct {
	ready    func() error  // why the process cannot do its work; nil: it can
	status   func() string // lines of text
	volumes  func() string // lines of text; nil: there is no such page
	registry prometheus.Gatherer
}

// server serves
//   - /healthz: the process answers;
//   - /readyz: 200 if the process can do its work, else 503, and why not;
//   - /statusz: whether this replica is the leader, and a line for each node;
//   - /volumesz: a line for each volume that has no PersistentVolume, or whose node was deleted;
//   - /metrics.
func (p pages) server() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		serving.Text(w, http.StatusOK, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.ready(); err != nil {
			serving.Text(w, http.StatusServiceUnavailable, err.Error()+"\n")
			return
		}
		serving.Text(w, http.StatusOK, "ok\n")
	})
	mux.HandleFunc("GET /statusz", func(w http.ResponseWriter, _ *http.Request) {
		serving.Text(w, http.StatusOK, p.status())
	})
	if p.volumes != nil {
		mux.HandleFunc("GET /volumesz", func(w http.ResponseWriter, _ *http.Request) {
			serving.Text(w, http.StatusOK, p.volumes())
		})
	}
	// A compressor has 1 MiB for each connection.
	mux.Handle("GET /metrics",
		promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{DisableCompression: true}))
	return serving.NewHTTPServer(mux)
}

// describe says how many nodes are linked, and has a line for each node.
func describe(nodes []router.NodeStatus, now time.Time) string {
	linked, lines := 0, strings.Builder{}
	for _, n := range nodes {
		since := n.Since.UTC().Format(time.RFC3339)
		age := now.Sub(n.Since).Truncate(time.Second)
		if !n.Linked {
			fmt.Fprintf(&lines, "node %s: not linked since %s (%s): %s\n", n.Name, since, age, n.Why)
			continue
		}
		linked++
		fmt.Fprintf(&lines, "node %s: linked since %s (%s), driver %s%s\n", n.Name, since, age,
			n.DriverVersion, describePools(n))
	}
	return fmt.Sprintf("%d of %d nodes are linked to this replica\n", linked, len(nodes)) +
		lines.String()
}

func describePools(n router.NodeStatus) string {
	if !n.Pushed {
		return ", has not sent the state of its pools"
	}
	text := strings.Builder{}
	for _, p := range n.NotReady {
		optional := ""
		if p.Optional {
			optional = "optional "
		}
		fmt.Fprintf(&text, "; %spool %s: not ready: %s", optional, p.Name, p.Reason)
	}
	return text.String()
}
