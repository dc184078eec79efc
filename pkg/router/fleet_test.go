package router

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func (c *cluster) wantOwner(id volume.PoolID, want string) {
	c.t.Helper()
	c.wait("pool "+string(id)+" of "+want, func() bool {
		got, known := c.NodeOf(id)
		return known && got == want
	})
}

func TestAPoolOfAnotherNodeIsRefused(t *testing.T) {
	c := newCluster(t, Options{})
	honest := c.addNode("node-a", "p")
	id := honest.pools[0].ID()
	v := c.create(createRequest("v", "node-a"))
	whole := uuidOf(honest.pools[0])
	for what, uuid := range map[string]string{
		"a copy of the disk": whole,
		"the ID alone":       string(id),
		"another UUID":       whole[:len(whole)-1] + "f",
	} {
		t.Run(what, func(t *testing.T) {
			liar := c.addNode("node-b", "p")
			state := liar.realState()
			state.Pools[0].Uuid = uuid
			liar.push(state)
			c.wantOwner(id, "node-a")
			liar.called()
			if _, err := c.client.ControllerGetVolume(t.Context(),
				&csi.ControllerGetVolumeRequest{VolumeId: v.GetVolumeId()}); err != nil {
				t.Error(err)
			}
			if calls := liar.called(); len(calls) > 0 {
				t.Errorf("the other node has got %q", calls)
			}
			if !strings.Contains(c.log.String(), "claims a pool that another node has") {
				t.Error("nothing is logged")
			}
			if got := nodeOf(c.create(createRequest("w"))); got != "node-a" {
				t.Errorf("a volume is placed in the pool that is refused, on %s", got)
			}
			resp, err := c.client.GetCapacity(t.Context(),
				&csi.GetCapacityRequest{AccessibleTopology: on("node-b").GetRequisite()[0]})
			if err != nil || resp.GetAvailableCapacity() != 0 {
				t.Errorf("the capacity of the pool that is refused is %v, %v", resp, err)
			}
			for _, n := range c.Details() {
				for _, p := range n.Pools {
					if p.ID == id && p.Foreign != (n.Name == "node-b") {
						t.Errorf("%s has pool %s, which is foreign: %v", n.Name, p.ID, p.Foreign)
					}
				}
			}
			liar.disconnect("the test is over")
		})
	}
}

// Also while its node is away, only the whole UUID proves that a pool has moved.
func TestAPoolMovesWithItsUUIDOnly(t *testing.T) {
	c := newCluster(t, Options{})
	from := c.addNode("node-a", "p")
	id, whole := from.pools[0].ID(), uuidOf(from.pools[0])
	from.disconnect("its disk is moved")
	to := c.addNode("node-b", "p")
	state := to.realState()
	state.Pools[0].Uuid = whole[:len(whole)-1] + "f"
	to.push(state)
	c.wantOwner(id, "node-a")
	state = to.realState()
	state.Pools[0].Uuid = whole
	to.push(state)
	c.wantOwner(id, "node-b")
	// The node comes back, and has a copy, or lies.
	from.connect()
	from.push(from.realState())
	c.wantOwner(id, "node-b")
}

func TestADiskMovesWhileBothNodesAreLinked(t *testing.T) {
	c := newCluster(t, Options{})
	from, to := c.addNode("node-a", "p"), c.addNode("node-b", "q")
	id, whole := from.pools[0].ID(), uuidOf(from.pools[0])
	v := c.create(createRequest("v", "node-a"))

	// The other node sees the disk before the first one has lost it.
	moved := to.realState()
	moved.Pools = append(moved.Pools, &linkpb.Pool{Name: "p", Uuid: whole, AvailableBytes: gib})
	to.push(moved)
	c.wantOwner(id, "node-a")
	lost := from.realState()
	lost.Pools[0].NotReady = string(volume.ReasonDisplaced)
	from.push(lost)
	c.wantOwner(id, "node-b")

	to.called()
	_, err := c.client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()})
	if calls := to.called(); len(calls) != 1 {
		t.Errorf("the new node has got %q, %v", calls, err)
	}
}

// A node may answer with anything. No PersistentVolume is made for another node.
func TestAnAnswerOfAnotherNodesPoolIsRefused(t *testing.T) {
	c := newCluster(t, Options{})
	honest, liar := c.addNode("node-a", "p"), c.addNode("node-b", "p")
	for name, answer := range map[string]*csi.Volume{
		"another node's pool": {
			VolumeId:           string(honest.pools[0].ID()) + "-v",
			AccessibleTopology: on("node-b").GetRequisite(),
		},
		"another node's topology": {
			VolumeId:           string(liar.pools[0].ID()) + "-v",
			AccessibleTopology: on("node-a").GetRequisite(),
		},
		"two topologies": {
			VolumeId:           string(liar.pools[0].ID()) + "-v",
			AccessibleTopology: on("node-b", "node-a").GetRequisite(),
		},
		"no topology": {VolumeId: string(liar.pools[0].ID()) + "-v"},
		"no ID":       {AccessibleTopology: on("node-b").GetRequisite()},
	} {
		t.Run(name, func(t *testing.T) {
			liar.answer(answer)
			_, err := c.client.CreateVolume(t.Context(), createRequest("v", "node-b"))
			wantCode(t, err, codes.Internal, "node-b has answered")
		})
	}
}

// A volume of all nodes is what its class says, whatever its node answers.
func TestContentOfGitIsOfAllNodes(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	class := map[string]string{
		"source": "git", "url": "https://git.example.com/site", "ref": "release",
	}
	answer := func(attributes map[string]string) *csi.Volume {
		return &csi.Volume{
			VolumeId:           "host-0123456789ab-v",
			VolumeContext:      attributes,
			AccessibleTopology: on("node-a").GetRequisite(),
		}
	}
	req := createRequest("v", "node-a")
	req.Parameters = class
	n.answer(answer(map[string]string{
		"source": "git", "url": class["url"], "ref": "release", "size": "1Mi",
	}))
	resp, err := c.client.CreateVolume(t.Context(), req)
	if err != nil || len(resp.GetVolume().GetAccessibleTopology()) != 0 {
		t.Errorf("the answer is %v, %v", resp, err)
	}
	for name, attributes := range map[string]map[string]string{
		"another repository": {"source": "git", "url": "https://git.example.com/other"},
		"a path of the node": {"path": "/etc"},
		"no attributes":      {},
		"no ref":             {"source": "git", "url": class["url"]},
	} {
		n.answer(answer(attributes))
		_, err := c.client.CreateVolume(t.Context(), req)
		if err == nil {
			t.Errorf("%s is taken for content of git", name)
			continue
		}
		wantCode(t, err, codes.Internal, "node-a has answered")
	}
}

// The node's next link replaces the one before, whose end then says nothing.
func TestALinkIsReplacedWithoutAGap(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	old := n.link
	n.connect()
	c.create(createRequest("v", "node-a"))
	c.Unlinked(old, errOfTest)
	c.create(createRequest("w", "node-a"))
	n.disconnect("the end")
	_, err := c.client.CreateVolume(t.Context(), createRequest("x", "node-a"))
	wantCode(t, err, codes.Unavailable, "the end")
}

func TestMetricsCountNodesAndPools(t *testing.T) {
	c := newCluster(t, Options{})
	a := c.addNode("node-a", "p")
	b := c.addNode("node-b", "p")
	c.create(createRequest("v", "node-a"))
	_, err := c.client.ControllerGetVolume(t.Context(),
		&csi.ControllerGetVolumeRequest{VolumeId: string(a.pools[0].ID()) + "-absent"})
	wantCode(t, err, codes.NotFound)
	b.disconnect("the end")
	for metric, want := range map[string]float64{
		`csi_hostpath_router_nodes{linked="true"}`:                       1,
		`csi_hostpath_router_nodes{linked="false"}`:                      1,
		`csi_hostpath_router_pools{state="ready"}`:                       1,
		`csi_hostpath_router_pools{state="refused"}`:                     0,
		`csi_hostpath_router_node_calls_total{node="node-a"}`:            2,
		`csi_hostpath_router_node_failures_total{node="node-a"}`:         1,
		`csi_hostpath_router_calls_under_way{}`:                          0,
		`csi_hostpath_router_call_seconds{method="ControllerGetVolume"}`: 1,
	} {
		if got := c.metric(metric); got != want {
			t.Errorf("%s is %v, want %v", metric, got, want)
		}
	}
}
