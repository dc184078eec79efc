package quantity

import (
	"math"
	"strings"
	"testing"
)

func TestWhatIsNoSizeIsAnsweredWithExamples(t *testing.T) {
	for _, text := range []string{"10GB", "", "ten", "-1", "9Ei", "1e99"} {
		if n, err := Parse(text); err == nil || !strings.Contains(err.Error(), "such as 10Gi, 500M") {
			t.Errorf("%q: %d, %v, want an error with examples", text, n, err)
		}
	}
}

func TestBytesAreWrittenForPeople(t *testing.T) {
	const gib = 1 << 30
	for bytes, want := range map[int64]string{
		0: "0 bytes", 1023: "1023 bytes", 1024: "1 KiB", 1536: "1.5 KiB", gib - 1: "1023 MiB",
		gib: "1 GiB", 2*gib - 1: "1.9 GiB", 3*gib + gib/8: "3.1 GiB", 10*gib + gib/2: "10 GiB",
		math.MaxInt64: "7.9 EiB",
	} {
		if got := Format(bytes); got != want {
			t.Errorf("%d is %q, want %q", bytes, got, want)
		}
	}
}

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
