package mount

import (
	"math"
	"testing"
)

func TestSizeBeyondTheLargestNumberIsTheLargestNumber(t *testing.T) {
	if got := Bytes(math.MaxUint64, 4096); got != math.MaxInt64 {
		t.Errorf("a filesystem beyond all bounds has %d bytes", got)
	}
}
