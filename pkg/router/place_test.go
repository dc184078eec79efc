package router

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const gib = 1 << 30

// pushRoom pushes the real pools with other room.
func (n *testNode) pushRoom(bytes ...int64) {
	n.c.t.Helper()
	state := n.realState()
	for i, b := range bytes {
		state.Pools[i].AvailableBytes = b
	}
	n.push(state)
}

func TestPlacementFollowsTheRoom(t *testing.T) {
	for _, tt := range []struct {
		name      string
		placement Placement
		rooms     [3]int64
		want      string
	}{
		{"most room", Spread, [3]int64{2 * gib, 3 * gib, gib}, "node-b"},
		{"least room that is enough", Pack, [3]int64{2 * gib, 3 * gib, mib}, "node-c"},
		{"not where it does not fit", Pack, [3]int64{2 * gib, 3 * gib, mib - 1}, "node-a"},
		{"where most is, if it fits nowhere", Spread, [3]int64{10, 30, 20}, "node-b"},
		{"where most is, if it fits nowhere", Pack, [3]int64{10, 20, 30}, "node-c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, Options{Placement: tt.placement})
			for i, name := range []string{"node-a", "node-b", "node-c"} {
				c.addNode(name, "p").pushRoom(tt.rooms[i])
			}
			if got := nodeOf(c.create(createRequest("v"))); got != tt.want {
				t.Errorf("the volume is on %s, want %s", got, tt.want)
			}
		})
	}
}

// What a class of backing: enforced takes depends on the pool: an image has a smallest size.
func TestPlacementKnowsWhatAnEnforcedSizeTakes(t *testing.T) {
	c := newCluster(t, Options{})
	counting := c.addNode("node-a", "p")
	state := counting.realState()
	state.Pools[0].AvailableBytes = volume.Ext4.MinimumBytes() - 1
	counting.push(state)
	enforcing := c.addNode("node-b", "p")
	state = enforcing.realState()
	state.Pools[0].AvailableBytes, state.Pools[0].EnforcesSizes = 2*mib, true
	enforcing.push(state)
	req := createRequest("v")
	req.Parameters = map[string]string{volume.ParamBacking: string(volume.EnforcedBacking)}
	if got := nodeOf(c.create(req)); got != "node-b" {
		t.Errorf("the volume is on %s, which has no room for an image; want node-b", got)
	}
	req.Name = "w"
	counting.pushRoom(gib)
	if got := nodeOf(c.create(req)); got != "node-a" {
		t.Errorf("the second volume is on %s, want node-a, which has most room", got)
	}
	c.fleet.mu.RLock()
	defer c.fleet.mu.RUnlock()
	if got := c.fleet.nodes["node-a"].pools[0].placed.arrived; got != volume.Ext4.MinimumBytes() {
		t.Errorf("the image counts %d bytes, want %d", got, volume.Ext4.MinimumBytes())
	}
}

// The pushed room is old while many volumes are made at a time.
func TestVolumesThatAreBeingMadeCount(t *testing.T) {
	c := newCluster(t, Options{})
	for _, name := range []string{"node-a", "node-b", "node-c", "node-d"} {
		c.addNode(name, "p").pushRoom(gib) // the state stays so while volumes are made
	}
	count := map[string]int{}
	for i := range 40 {
		count[nodeOf(c.create(createRequest(fmt.Sprint("v-", i))))]++
	}
	for node, n := range count {
		if n != 10 {
			t.Errorf("%s has %d volumes of 40, want 10: %v", node, n, count)
		}
	}
}

func TestTheTopologyDecidesWhereItLeavesNoChoice(t *testing.T) {
	c := newCluster(t, Options{})
	a, b := c.addNode("node-a", "p"), c.addNode("node-b", "p")
	a.pushRoom(gib)
	b.pushRoom(2 * gib)
	for i, tt := range []struct {
		where *csi.TopologyRequirement
		want  string
	}{
		{nil, "node-b"},
		{&csi.TopologyRequirement{}, "node-b"},
		{on("node-a"), "node-a"},
		{on("node-a", "node-b"), "node-a"}, // preferred
		{&csi.TopologyRequirement{Requisite: on("node-a", "node-b").GetRequisite()}, "node-b"},
		{&csi.TopologyRequirement{Preferred: on("node-a").GetPreferred()}, "node-a"},
		{
			&csi.TopologyRequirement{
				Requisite: on("node-a").GetRequisite(), Preferred: on("node-b").GetPreferred(),
			}, "node-a",
		},
		{on("node-absent", "node-a"), "node-a"},
	} {
		req := createRequest(fmt.Sprint("v-", i))
		req.AccessibilityRequirements = tt.where
		if got := nodeOf(c.create(req)); got != tt.want {
			t.Errorf("%v: the volume is on %s, want %s", tt.where, got, tt.want)
		}
	}
}

func TestAVolumeIsMadeOnTheNodeOfItsSource(t *testing.T) {
	c := newCluster(t, Options{})
	c.addNode("node-a", "p").pushRoom(gib)
	c.addNode("node-b", "p").pushRoom(2 * gib)
	source := c.create(createRequest("source", "node-a"))
	snapshot, err := c.client.CreateSnapshot(t.Context(),
		&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source.GetVolumeId()})
	if err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]*csi.VolumeContentSource{
		"clone": {Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source.GetVolumeId()},
		}},
		"restore": {Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{
				SnapshotId: snapshot.GetSnapshot().GetSnapshotId(),
			},
		}},
	} {
		req := createRequest(name)
		req.VolumeContentSource = from
		if got := nodeOf(c.create(req)); got != "node-a" {
			t.Errorf("the %s is on %s", name, got)
		}
		req = createRequest(name+"-elsewhere", "node-b")
		req.VolumeContentSource = from
		_, err := c.client.CreateVolume(t.Context(), req)
		wantCode(t, err, codes.ResourceExhausted, "not on this node, node-b", "on node node-a")
	}
	req := createRequest("nobody's")
	req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: "0123456789ab-v"},
	}}
	_, err = c.client.CreateVolume(t.Context(), req)
	wantCode(t, err, codes.Unavailable, "0123456789ab")
}

func TestAPoolThatNobodyCanUseIsNamed(t *testing.T) {
	c := newCluster(t, Options{})
	_, err := c.client.CreateVolume(t.Context(), createRequest("v"))
	wantCode(t, err, codes.Unavailable, "no node is linked")
	n := c.addNode("node-a", "p")
	req := createRequest("v")
	req.Parameters = map[string]string{volume.ParamPool: "fast"}
	_, err = c.client.CreateVolume(t.Context(), req)
	wantCode(t, err, codes.Unavailable, `pool "fast"`)
	state := n.realState()
	state.Pools[0].NotReady = string(volume.ReasonDiskFailed)
	n.push(state)
	_, err = c.client.CreateVolume(t.Context(), createRequest("v"))
	wantCode(t, err, codes.Unavailable, "a default pool")
}

// annotations is what pkg/kube does with claims, as a Recorder of several replicas.
type annotations struct {
	mu    sync.Mutex
	nodes map[Claim]string
	err   error
}

func (a *annotations) Record(_ context.Context, claim Claim, node string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return "", a.err
	}
	if recorded, ok := a.nodes[claim]; ok {
		return recorded, nil
	}
	a.nodes[claim] = node
	return node, nil
}

func ofClaim(name string) *csi.CreateVolumeRequest {
	req := createRequest(name)
	req.Parameters = map[string]string{
		volume.ParamPVCNamespace: "shop", volume.ParamPVCName: name, volume.ParamPVName: name,
	}
	return req
}

// Two replicas see the nodes' room at different times, and choose different nodes.
func TestTwoReplicasMakeOneVolume(t *testing.T) {
	recorder := &annotations{nodes: map[Claim]string{}}
	one := newCluster(t, Options{Recorder: recorder, Placement: Spread})
	two := newCluster(t, Options{Recorder: recorder, Placement: Pack})
	for i, name := range []string{"node-a", "node-b"} {
		n := one.addNode(name, "p")
		n.pushRoom(int64(i+1) * gib)
		two.Linked(n.link)
		two.wait("the state of "+name, func() bool {
			two.fleet.mu.RLock()
			defer two.fleet.mu.RUnlock()
			return two.fleet.nodes[name].pushed
		})
	}
	for i := range 20 {
		req := ofClaim(fmt.Sprint("v-", i))
		var made [2]*csi.CreateVolumeResponse
		var errs [2]error
		var both sync.WaitGroup
		for k, c := range []*cluster{one, two} {
			both.Go(func() { made[k], errs[k] = c.client.CreateVolume(t.Context(), req) })
		}
		both.Wait()
		for k, err := range errs {
			if status.Code(err) == codes.Aborted { // the other replica's call is under way: repeat
				made[k], err = []*cluster{one, two}[k].client.CreateVolume(t.Context(), req)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if a, b := made[0].GetVolume().GetVolumeId(), made[1].GetVolume().GetVolumeId(); a != b {
			t.Errorf("the replicas have made %s and %s", a, b)
		}
	}
	list, err := one.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil || len(list.GetEntries()) != 20 {
		t.Errorf("there are %d volumes, %v, want 20", len(list.GetEntries()), err)
	}
}

func TestNothingIsMadeThatIsNotRecorded(t *testing.T) {
	recorder := &annotations{nodes: map[Claim]string{}, err: errors.New("the API server is away")}
	c := newCluster(t, Options{Recorder: recorder})
	n := c.addNode("node-a", "p")
	_, err := c.client.CreateVolume(t.Context(), ofClaim("v"))
	wantCode(t, err, codes.Unavailable, "the API server is away", "node-a")
	if calls := n.called(); len(calls) > 0 {
		t.Errorf("the node has got %q", calls)
	}
	recorder.err = nil
	recorder.nodes[Claim{"shop", "w"}] = "node-gone"
	_, err = c.client.CreateVolume(t.Context(), ofClaim("w"))
	wantCode(t, err, codes.Unavailable, "node-gone")
}

// The provisioner chooses again when a node has no room; so does memory for a volume without a
// claim.
func TestAVolumeWithoutAClaimIsPlacedAgainWhenTheNodeHasNoRoom(t *testing.T) {
	c := newCluster(t, Options{})
	a, b := c.addNode("node-a", "p"), c.addNode("node-b", "p")
	a.pushRoom(2 * gib)
	b.pushRoom(gib)
	a.doBefore(func(context.Context, string) error {
		return status.Error(codes.ResourceExhausted, "full")
	})
	_, err := c.client.CreateVolume(t.Context(), createRequest("v"))
	wantCode(t, err, codes.ResourceExhausted)
	a.pushRoom(0)
	if got := nodeOf(c.create(createRequest("v"))); got != "node-b" {
		t.Errorf("the volume is on %s", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory()
	for i := range maxRemembered + 10 {
		m.record(strconv.Itoa(i), "node")
	}
	if _, known := m.node("9"); known || len(m.nodes) != maxRemembered {
		t.Errorf("%d names are remembered", len(m.nodes))
	}
}

// A node that pushes nonsense can neither stop the router nor have its numbers believed.
func TestHostileStateIsBounded(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	state := &linkpb.State{Pools: []*linkpb.Pool{{
		Name: "p", IsDefault: true, Uuid: "no uuid", SizeBytes: -1, AvailableBytes: -1, Volumes: -1,
	}, {
		Name: string(make([]byte, 100_000)), Uuid: "",
	}}}
	for range 1000 {
		state.Pools = append(state.Pools, &linkpb.Pool{Name: "q", Uuid: "0123456789ab"})
	}
	n.mu.Lock()
	n.state = state
	close(n.pushed)
	n.pushed = make(chan struct{})
	n.mu.Unlock()
	c.wait("the state", func() bool {
		c.fleet.mu.RLock()
		defer c.fleet.mu.RUnlock()
		pools := c.fleet.nodes["node-a"].pools
		return len(pools) == maxPools && pools[0].available == 0 && len(pools[1].name) <= 2*maxTextBytes
	})
	resp, err := c.client.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	if err != nil || resp.GetAvailableCapacity() != 0 {
		t.Errorf("the capacity is %v, %v", resp, err)
	}
}
