package copying

import (
	"testing"

	"golang.org/x/time/rate"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
)

func TestRateOfThePoolIsThatOfItsLimiter(t *testing.T) {
	if l := NewThrottle(1, 0).Limiter; l != nil {
		t.Errorf("without a rate there is a limiter: %v", l)
	}
	l, ok := NewThrottle(1, 5<<20).Limiter.(*rate.Limiter)
	if !ok || l.Limit() != 5<<20 || l.Burst() != copytree.MaxChunk {
		t.Errorf("the limiter is %+v, want one of 5 MiB a second that lets a chunk pass", l)
	}
}
