package quantity

import (
	"math"
	"testing"
)

func FuzzParseQuantity(f *testing.F) {
	for _, seed := range []string{"0", "10Gi", "1.5M", "1e9", "1e999999999", "8Ei", "-1", "9223372036854775807", "0.000000001"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := Parse(text); n < 0 || n == math.MaxInt64 || err != nil && n != 0 {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	})
}
