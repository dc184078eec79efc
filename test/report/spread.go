package report

import (
	"math"
	"slices"
	"time"
)

// Spread is what several rounds of one measurement came to.
type Spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// SpreadOf leaves out what is no number: a round too short to measure. The spread of nothing is
// zero.
func SpreadOf(rounds []float64) Spread {
	sorted := slices.DeleteFunc(slices.Clone(rounds),
		func(f float64) bool { return math.IsNaN(f) || math.IsInf(f, 0) })
	slices.Sort(sorted)
	if len(sorted) == 0 {
		return Spread{}
	}
	// Of an even number of rounds the middle two count: the lower one alone would flatter.
	median := (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	return Spread{Min: sorted[0], Median: median, Max: sorted[len(sorted)-1]}
}

// Quantile is the nearest-rank quantile of sorted values.
func Quantile[T any](sorted []T, q float64) T {
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// P50 is the median of times in milliseconds.
func P50(times []time.Duration) float64 {
	if len(times) == 0 {
		return math.NaN()
	}
	return Milliseconds(Quantile(slices.Sorted(slices.Values(times)), 0.5))
}

// P99 is the time in milliseconds that one in a hundred exceeds.
func P99(times []time.Duration) float64 {
	if len(times) == 0 {
		return math.NaN()
	}
	return Milliseconds(Quantile(slices.Sorted(slices.Values(times)), 0.99))
}

// Milliseconds is a time as a number.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Ratios divides round by round: what disturbs the machine for a while disturbs both.
func Ratios(a, b []float64) []float64 {
	all := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		all = append(all, a[i]/b[i])
	}
	return all
}
