package router

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxUnderWay is how many calls csi-provisioner, which makes most, makes at a time in the chart.
	maxUnderWay = 100
	// turnPatience is how long a call waits for its turn: nodes that are well take milliseconds for
	// most calls. Then its caller gets to do something else.
	turnPatience = time.Second
)

// turns bounds the calls under way. A node has at most a quarter of what is free: nodes that hang
// must not take all that the sidecars can do. One node has 20 calls at most, and five that hang
// leave a third to the others (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on
// Networking 6, 1998). Each node may have one.
type turns struct {
	patience time.Duration // turnPatience; tests shorten it

	mu       sync.Mutex
	underWay int
	changed  chan struct{} // closed and replaced when a call has ended
}

func newTurns() *turns { return &turns{patience: turnPatience, changed: make(chan struct{})} }

// begin waits for a turn of the node. The caller calls end if there is no error. Errors:
// ErrNodeBusy; the context's.
func (t *turns) begin(ctx context.Context, n *node) error {
	patience := time.NewTimer(t.patience)
	defer patience.Stop()
	for {
		mine, changed := t.tryBegin(n)
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-patience.C:
			return fmt.Errorf("%w: %s has %d calls under way: retry", volume.ErrNodeBusy, n.name, mine)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryBegin takes a turn. Without one it says how many calls the node has, and when to try again.
func (t *turns) tryBegin(n *node) (mine int, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.underWay >= max(1, (maxUnderWay-t.underWay)/4) {
		return n.underWay, t.changed
	}
	n.underWay++
	t.underWay++
	return n.underWay, nil
}

func (t *turns) end(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.underWay--
	t.underWay--
	close(t.changed)
	t.changed = make(chan struct{})
}

// count is how many calls are under way.
func (t *turns) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.underWay
}
