package router

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
)

// Links come and go, and each call goes to either replica until it succeeds, as sidecars repeat
// calls, also those whose answer was lost. Every claim gets one volume.
func TestNoVolumeIsLostOrMadeTwiceWhileLinksComeAndGo(t *testing.T) {
	recorder := &annotations{nodes: map[Claim]string{}}
	one := newCluster(t, Options{Recorder: recorder})
	two := newCluster(t, Options{Recorder: recorder, Placement: Pack})
	var nodes []*testNode
	for i := range 4 {
		n := one.newNode(fmt.Sprint("node-", i), "p")
		n.lose = func() bool { return random(4) == 0 }
		nodes = append(nodes, n)
	}
	stop := make(chan struct{})
	var flapping sync.WaitGroup
	for _, n := range nodes {
		for _, c := range []*cluster{one, two} {
			flapping.Go(func() { flap(c, n, stop) })
		}
	}
	const claims = 100
	var callers sync.WaitGroup
	for i := range claims {
		callers.Go(func() { untilOK(t, one, two, fmt.Sprint("v-", i)) })
	}
	callers.Wait()
	close(stop)
	flapping.Wait()
	total := 0
	for _, n := range nodes {
		total += len(n.pools[0].List("", 2*claims))
	}
	if total != claims {
		t.Errorf("%d claims have %d volumes", claims, total)
	}
}

// flap replaces a node's link, or lets it be without one for a while, until stop is closed.
func flap(c *cluster, n *testNode, stop chan struct{}) {
	for {
		l := &link.Link{Node: n.name, Since: time.Now(), Conn: n.conn}
		c.Linked(l)
		time.Sleep(random(60 * time.Millisecond))
		select {
		case <-stop:
			return
		default:
		}
		if random(2) == 0 {
			c.Unlinked(l, errOfTest)
			time.Sleep(random(10 * time.Millisecond))
		}
	}
}

// untilOK calls either replica until the volume is made, and then once more.
func untilOK(t *testing.T, one, two *cluster, name string) {
	t.Helper()
	id, again := "", random(2)+1
	for end := time.Now().Add(deadline); again > 0; {
		c := []*cluster{one, two}[random(2)]
		resp, err := c.client.CreateVolume(t.Context(), ofClaim(name))
		switch code := rpc.Code(err); {
		case code == codes.OK && (id == "" || id == resp.GetVolume().GetVolumeId()):
			id = resp.GetVolume().GetVolumeId()
			again--
		case code == codes.OK:
			t.Errorf("%s was %s, and is %v", name, id, resp)
			return
		case code != codes.Unavailable && code != codes.Aborted || time.Now().After(end):
			t.Errorf("%s: %v", name, err)
			return
		default:
			time.Sleep(random(5 * time.Millisecond))
		}
	}
	if _, err := one.client.ControllerGetVolume(t.Context(),
		&csi.ControllerGetVolumeRequest{VolumeId: id}); err != nil &&
		rpc.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}

func random[T int | time.Duration](n T) T { return rand.N(n) } //nolint:gosec // a test's choice
