package router

import (
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestAnIdlePoolIsReportedWithOneNumber(t *testing.T) {
	p := &poolState{}
	const step = 64 * mib
	for _, tt := range []struct{ available, want int64 }{
		{10 * gib, 10 * gib},
		{10*gib + step, 10 * gib},
		{10*gib + 2*step - 1, 10 * gib},
		{10*gib + 2*step, 10*gib + 2*step},
		{10*gib + 2*step - 1, 10*gib + step}, // never more than there is
		{10*gib + 2*step, 10*gib + step},
		{0, 0},
		{mib, 0},
	} {
		p.available = tt.available
		if p.report(step); p.reported != tt.want {
			t.Errorf("%d bytes are reported as %d, want %d", tt.available, p.reported, tt.want)
		}
	}
}

func TestStepsFollowTheSizeOfThePool(t *testing.T) {
	for size, want := range map[int64]int64{
		-1: mib, 0: mib, 200 * mib: mib, gib: 4 * mib, 100 * gib: 256 * mib, 1 << 40: 4 * gib,
		1 << 60: 4 * gib,
	} {
		if got := granularity(size); got != want {
			t.Errorf("the step of %d bytes is %d, want %d", size, got, want)
		}
	}
}

func (c *cluster) capacity(class map[string]string, node string) (int64, error) {
	c.t.Helper()
	req := &csi.GetCapacityRequest{Parameters: class}
	if node != "" {
		req.AccessibleTopology = on(node).GetRequisite()[0]
	}
	resp, err := c.client.GetCapacity(c.t.Context(), req)
	return resp.GetAvailableCapacity(), err
}

func TestCapacityIsThatOfTheNodesPool(t *testing.T) {
	c := newCluster(t, Options{})
	c.addNode("node-a", "p", "fast").push(&linkpb.State{Pools: []*linkpb.Pool{
		{Name: "p", IsDefault: true, Uuid: "0123456789ab", SizeBytes: gib, AvailableBytes: 8*mib + 1, EnforcesSizes: true},
		{Name: "fast", Uuid: "1123456789ab", SizeBytes: gib, AvailableBytes: 400 * mib},
	}})
	c.addNode("node-b", "p").push(&linkpb.State{Pools: []*linkpb.Pool{
		{Name: "p", IsDefault: true, Uuid: "2123456789ab", SizeBytes: gib, AvailableBytes: 16 * mib},
	}})
	fast := map[string]string{volume.ParamPool: "fast"}
	enforced := map[string]string{volume.ParamBacking: string(volume.EnforcedBacking)}
	path := map[string]string{
		volume.ParamPath: "/srv", volume.ParamType: string(volume.Directory),
	}
	for _, tt := range []struct {
		name  string
		class map[string]string
		node  string
		want  int64
	}{
		{"default", nil, "node-a", 8 * mib},
		{"named", fast, "node-a", 400 * mib},
		{"absent", fast, "node-b", 0},
		{"all", nil, "", 24 * mib},
		{"limits of inodes that nobody has", map[string]string{volume.ParamInodes: "10"}, "node-a", 0},
		{"too little for a filesystem", map[string]string{volume.ParamBacking: "image"}, "node-b", 16 * mib},
		{"a directory where sizes are enforced", enforced, "node-a", 8 * mib},
		{"an image where they are not", enforced, "node-b", 16 * mib},
		{"a path", path, "node-a", unlimited},
		{"a path, anywhere", path, "", unlimited},
		{"a mistake", map[string]string{"colour": "red"}, "node-a", 8 * mib},
	} {
		if got, err := c.capacity(tt.class, tt.node); err != nil || got != tt.want {
			t.Errorf("%s: %d, %v, want %d", tt.name, got, err, tt.want)
		}
	}
}

// A restart of the controller, or of a node's driver, writes nothing to the API server.
func TestCapacityIsNotSaidBeforeItIsKnown(t *testing.T) {
	c := newCluster(t, Options{})
	_, err := c.capacity(nil, "node-a")
	wantCode(t, err, codes.Unavailable, "node-a")
	n := c.addNode("node-a", "p")
	opening := n.realState()
	opening.Pools[0].NotReady, opening.Pools[0].Uuid = string(volume.ReasonOpening), ""
	n.push(opening)
	_, err = c.capacity(nil, "node-a")
	wantCode(t, err, codes.Unavailable, "node-a")
	n.pushRoom(gib)
	before, err := c.capacity(nil, "node-a")
	if err != nil || before == 0 {
		t.Fatalf("the capacity is %d, %v", before, err)
	}
	n.disconnect("its driver restarts")
	if got, err := c.capacity(nil, "node-a"); err != nil || got != before {
		t.Errorf("while its driver restarts the node has %d, %v, want %d", got, err, before)
	}
	c.fleet.mu.Lock()
	c.fleet.nodes["node-a"].since = time.Now().Add(-2 * patience)
	c.started = time.Now().Add(-2 * patience)
	c.fleet.mu.Unlock()
	for _, node := range []string{"node-a", "node-never"} {
		if got, err := c.capacity(nil, node); err != nil || got != 0 {
			t.Errorf("%s has not been linked for long, and has %d, %v", node, got, err)
		}
	}
}
