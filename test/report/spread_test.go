package report

import (
	"math"
	"testing"
)

func TestSpreadOfRounds(t *testing.T) {
	tests := []struct {
		name   string
		rounds []float64
		want   Spread
	}{
		{name: "odd", rounds: []float64{3, 1, 2}, want: Spread{Min: 1, Median: 2, Max: 3}},
		{name: "even", rounds: []float64{4, 1}, want: Spread{Min: 1, Median: 2.5, Max: 4}},
		{
			name:   "not all numbers",
			rounds: []float64{math.NaN(), 1, math.Inf(1)},
			want:   Spread{Min: 1, Median: 1, Max: 1},
		},
		{name: "none", want: Spread{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := SpreadOf(test.rounds); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
