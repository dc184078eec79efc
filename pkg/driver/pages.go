package driver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/singleflight"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// answerTimeout bounds how long a request waits for the pools' disks. kubelet's probe waits for
// 5 s.
const answerTimeout = 4 * time.Second

// errNoAnswer: a disk hangs.
var errNoAnswer = fmt.Errorf("the pools' disks have not answered within %v", answerTimeout)

// pages serves the HTTP requests. Any pod of the cluster may send them. So no page has a path of
// the node, and a disk that hangs keeps one goroutine busy, however many requests there are.
type pages struct {
	logger   klog.Logger
	pools    *poolSet
	around   *nodeChecks
	registry prometheus.Gatherer
	flight   singleflight.Group
	// lastLogged has the last error of each pool that was logged. Only checkAll uses it, which
	// runs once at a time.
	lastLogged map[string]string
}

// newHTTPServer serves
//   - /healthz: the process answers;
//   - /readyz: 200 if the node can have volumes and every required pool can be used, else 503, and
//     what cannot be used;
//   - /statusz: the state of the node and of each pool, always with 200: kubectl shows no text of
//     another status;
//   - /metrics.
func newHTTPServer(
	ctx context.Context, registry prometheus.Gatherer, pools *poolSet, around *nodeChecks,
) *http.Server {
	p := &pages{
		logger:     klog.FromContext(ctx),
		pools:      pools,
		around:     around,
		registry:   registry,
		lastLogged: map[string]string{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz",
		func(w http.ResponseWriter, _ *http.Request) { serving.Text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", p.ready)
	mux.HandleFunc("GET /statusz", p.status)
	mux.HandleFunc("GET /metrics", p.metrics)
	return serving.NewHTTPServer(mux)
}

// state is what strangers may know of a pool or of the node.
type state struct {
	subject  string // "pool NAME" or "node"
	optional bool
	reason   volume.Reason // why it cannot be used; empty: it can be used
	note     string        // what is weaker than it could be
}

// String is a line without its end.
func (s state) String() string {
	subject := s.subject
	if s.optional {
		subject = "optional " + subject
	}
	switch {
	case s.reason != "":
		return fmt.Sprintf("%s: not ready: %s (the driver's log has more)", subject, s.reason)
	case s.note != "":
		return subject + ": ready, " + s.note
	}
	return subject + ": ready"
}

// ready answers kubelet's readiness probe.
func (p *pages) ready(w http.ResponseWriter, r *http.Request) {
	states, err := p.states(r.Context())
	if err != nil {
		serving.Text(w, http.StatusServiceUnavailable, err.Error()+"\n")
		return
	}
	code, text := http.StatusOK, strings.Builder{}
	for _, s := range states {
		if s.reason == "" && s.note == "" {
			continue
		}
		fmt.Fprintln(&text, s)
		if s.reason != "" && !s.optional {
			code = http.StatusServiceUnavailable
		}
	}
	if code == http.StatusOK {
		serving.Text(w, code, "ok\n"+text.String())
		return
	}
	serving.Text(w, code, text.String())
}

func (p *pages) status(w http.ResponseWriter, r *http.Request) {
	states, err := p.states(r.Context())
	if err != nil {
		serving.Text(w, http.StatusOK, err.Error()+"\n")
		return
	}
	var text strings.Builder
	for _, s := range states {
		fmt.Fprintln(&text, s)
	}
	serving.Text(w, http.StatusOK, text.String())
}

func (p *pages) metrics(w http.ResponseWriter, r *http.Request) {
	gather := func() ([]*dto.MetricFamily, error) { //nolint:contextcheck // prometheus has none
		return share(r.Context(), &p.flight, "metrics", p.registry.Gather)
	}
	// A compressor has 1 MiB for each connection.
	options := promhttp.HandlerOpts{DisableCompression: true}
	promhttp.HandlerFor(prometheus.GathererFunc(gather), options).ServeHTTP(w, r)
}

func (p *pages) states(ctx context.Context) ([]state, error) {
	return share(ctx, &p.flight, "states", p.checkAll)
}

// checkAll asks the pools' disks, and logs what has changed: the log is the only place that has all
// of an error.
func (p *pages) checkAll() ([]state, error) {
	states := p.around.states()
	for _, slot := range p.pools.statuses() {
		s := state{subject: "pool " + slot.config.Name, optional: slot.config.Optional}
		text := ""
		if slot.err != nil {
			s.reason, text = volume.ReasonOf(slot.err), slot.err.Error()
		}
		if slot.pool != nil && slot.pool.Filesystem().NoExec {
			s.note = "noexec"
		}
		// The error of a pool that is not open is logged by keepTrying.
		if slot.pool != nil && text != "" && text != p.lastLogged[slot.config.Name] {
			p.logger.Error(slot.err, "Pool cannot be used", "pool", slot.config.Name)
		}
		p.lastLogged[slot.config.Name] = text
		states = append(states, s)
	}
	return states, nil
}

// share has one goroutine at a time call f, and gives its result to all who ask meanwhile. It waits
// for answerTimeout.
func share[T any](
	ctx context.Context, flight *singleflight.Group, key string, f func() (T, error),
) (result T, err error) {
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case r := <-flight.DoChan(key, func() (any, error) { return f() }):
		result, _ = r.Val.(T)
		return result, r.Err
	case <-ctx.Done():
		return result, ctx.Err()
	case <-timer.C:
		return result, errNoAnswer
	}
}
