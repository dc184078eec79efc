package dashboards

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetricsAreWhatAQueryNames(t *testing.T) {
	for expr, want := range map[string][]string{
		`topk(3, a:b_c{x="d(e)", y=~"f"} * 24)`:                          {"a:b_c"},
		`sum by (le, m) (rate(x_total[5m]) and on (job) y) or vector(0)`: {"x_total", "y"},
		`predict_linear(free[6h], 24 * 3600) < 0 and used offset 3h > 0`: {"free", "used"},
		`86400 * deriv(used[6h]) > bool 0.5`:                             {"used"},
	} {
		if got := Metrics(expr); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

func TestMissingMetricIsFound(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "a", Help: "One."}, []string{"x"}),
		prometheus.NewHistogram(prometheus.HistogramOpts{Name: "b", Help: "Two."}),
	)
	got := Missing(registry, []string{"a", "b_bucket", "c"})
	if !slices.Equal(got, []string{`"c"`}) {
		t.Errorf("missing: %q", got)
	}
}
