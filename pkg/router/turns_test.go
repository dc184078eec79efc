package router

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// csi-provisioner has 100 workers, and claims of nodes that hang come first.
func TestNodesThatHangLeaveCallsForOthers(t *testing.T) {
	const hanging = 8
	c := newCluster(t, Options{})
	c.fleet.turns.patience = 10 * time.Millisecond
	release := make(chan struct{})
	claims := make(chan string, maxUnderWay*hanging+100)
	for range maxUnderWay {
		for i := range hanging {
			claims <- fmt.Sprint("hangs-", i)
		}
	}
	for i := range hanging {
		c.addNode(fmt.Sprint("hangs-", i), "p").
			doBefore(func(context.Context, string) error { <-release; return nil })
	}
	well := c.addNode("well", "p")
	for range 100 {
		claims <- well.name
	}
	close(claims)
	var workers, made sync.WaitGroup
	made.Add(100)
	for worker := range maxUnderWay {
		workers.Go(func() {
			i := 0
			for node := range claims {
				i++
				req := createRequest(fmt.Sprintf("v-%d-%d", worker, i), node)
				_, err := c.client.CreateVolume(t.Context(), req)
				for node == well.name && isToRetry(err) { // as csi-provisioner does
					_, err = c.client.CreateVolume(t.Context(), req)
				}
				if err != nil && !isToRetry(err) {
					t.Error(err)
				}
				if node == well.name {
					made.Done()
				}
			}
		})
	}
	made.Wait() // while the others hang
	close(release)
	workers.Wait()
}

// isToRetry says whether the router had no turn for a call, or has given up the call because too
// many arrived at once (rpc.RouterBounds).
func isToRetry(err error) bool {
	return rpc.Code(err) == codes.Unavailable || rpc.Code(err) == codes.Canceled
}

func TestTurnsAreSharedAmongNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		take := func(n *node) (taken int) {
			for turns.begin(t.Context(), n) == nil {
				taken++
			}
			return taken
		}
		nodes := make([]*node, 120)
		for i := range nodes {
			nodes[i] = &node{name: strconv.Itoa(i)}
		}
		if got := take(nodes[0]); got != 20 {
			t.Errorf("one node has %d calls, want 20", got)
		}
		for i, n := range nodes[1:] { // however many hang, each has one call
			if got := take(n); got < 1 {
				t.Errorf("node %s has %d calls", n.name, got)
			}
			if left := maxUnderWay - turns.count(); i == 3 && left < maxUnderWay/3-1 {
				t.Errorf("five nodes leave %d calls", left)
			}
		}
		// A call waits until another has ended.
		waiting := make(chan error)
		go func() { waiting <- turns.begin(t.Context(), nodes[119]) }()
		synctest.Wait()
		turns.end(nodes[119])
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		if err := turns.begin(t.Context(), nodes[119]); !errors.Is(err, volume.ErrNodeBusy) {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := turns.begin(ctx, nodes[119]); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
