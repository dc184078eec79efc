package router

import (
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// objectOf is the object of a node that has the driver.
func objectOf(name string) NodeObject {
	return NodeObject{Name: name, Exists: true, HasDriver: true}
}

func (c *cluster) wantList(volumes ...*csi.Volume) {
	c.t.Helper()
	var want []string
	for _, v := range volumes {
		want = append(want, v.GetVolumeId())
	}
	slices.Sort(want)
	if got := c.listVolumes(0); !slices.Equal(got, want) {
		c.t.Errorf("there are %q, want %q", got, want)
	}
}

func (c *cluster) wantNoList(words ...string) {
	c.t.Helper()
	_, err := c.client.ListVolumes(c.t.Context(), &csi.ListVolumesRequest{})
	wantCode(c.t, err, codes.Unavailable, words...)
	_, err = c.client.ListSnapshots(c.t.Context(), &csi.ListSnapshotsRequest{})
	wantCode(c.t, err, codes.Unavailable, words...)
}

func TestListsGoOnWithoutANodeThatWasDeleted(t *testing.T) {
	c := newCluster(t, Options{AwaitNodes: true})
	c.addNode("node-a", "p")
	b := c.addNode("node-b", "p")
	c.SetNode(objectOf("node-a"))
	c.SetNode(objectOf("node-b"))
	c.NodesRead()
	onA, onB := c.create(createRequest("v", "node-a")), c.create(createRequest("v", "node-b"))
	c.wantList(onA, onB)

	b.disconnect("switched off")
	c.wantNoList("node-b", "switched off")
	c.SetNode(NodeObject{Name: "node-b"})
	c.wantList(onA)
	if got := c.metric(`csi_hostpath_router_nodes{linked="false"}`); got != 0 {
		t.Errorf("%v nodes are not linked, want none", got)
	}
	wantCode(t, c.deleteVolume(onB), codes.Unavailable, "node-b was deleted")

	// It comes back, is deleted while it is linked, and ends only then.
	b.connect()
	b.waitPushed()
	c.wantList(onA, onB)
	c.SetNode(objectOf("node-b"))
	c.SetNode(NodeObject{Name: "node-b"})
	c.wantList(onA, onB)
	b.disconnect("switched off again")
	c.wantList(onA)
}

// After its start the controller knows only the nodes that have linked themselves since.
func TestListsWaitForTheNodesThatHaveTheDriver(t *testing.T) {
	c := newCluster(t, Options{AwaitNodes: true})
	c.addNode("node-a", "p")
	c.wantNoList("which nodes")
	c.SetNode(objectOf("node-a"))
	c.SetNode(objectOf("node-b"))
	c.SetNode(NodeObject{Name: "node-c", Exists: true})
	c.NodesRead()
	c.wantNoList("node-b", "has not linked yet")
	if c.AllLinked() {
		t.Error("node-b counts as linked")
	}
	if room, err := c.capacity(nil, "node-b"); err == nil {
		t.Errorf("the room of a node that is not known is %d", room)
	}
	b := c.addNode("node-b", "p")
	c.wantList()
	if !c.AllLinked() {
		t.Error("not all nodes count as linked")
	}

	// One that never linked, and loses the driver, has nothing.
	c.SetNode(objectOf("node-c"))
	c.wantNoList("node-c")
	c.SetNode(NodeObject{Name: "node-c", Exists: true})
	c.wantList()
	// One that was linked has its volumes still.
	b.disconnect("its driver was removed")
	c.SetNode(NodeObject{Name: "node-b", Exists: true})
	c.wantNoList("node-b", "its driver was removed")
}

func TestVolumesThatMayBeAnywhereAvoidNodesThatAreClosed(t *testing.T) {
	c := newCluster(t, Options{})
	for name, room := range map[string]int64{"node-a": 3 * gib, "node-b": 2 * gib, "node-c": gib} {
		c.addNode(name, "p").pushRoom(room)
	}
	cordoned, notReady, restarting, tainted := objectOf(""), objectOf(""), objectOf(""), objectOf("")
	cordoned.Cordoned, tainted.Tainted = true, true
	notReady.NotReadySince = time.Now().Add(-notReadyFor - time.Second)
	restarting.NotReadySince = time.Now()
	for _, tt := range []struct {
		name    string
		a, b, c NodeObject
		want    string // empty: nowhere
	}{
		{"most room", objectOf(""), objectOf(""), objectOf(""), "node-a"},
		{"not where no pods come", cordoned, objectOf(""), objectOf(""), "node-b"},
		{"not where kubelet is gone", notReady, cordoned, objectOf(""), "node-c"},
		{"where kubelet restarts", restarting, objectOf(""), objectOf(""), "node-a"},
		{"rather where all pods may come", tainted, objectOf(""), objectOf(""), "node-b"},
		{"where some pods may come", tainted, tainted, cordoned, "node-a"},
		{"nowhere", cordoned, notReady, cordoned, ""},
	} {
		for name, o := range map[string]NodeObject{"node-a": tt.a, "node-b": tt.b, "node-c": tt.c} {
			o.Name = name
			c.SetNode(o)
		}
		resp, err := c.client.CreateVolume(t.Context(), createRequest(tt.name))
		if tt.want == "" {
			wantCode(t, err, codes.Unavailable, "node-a (cordoned)", "node-b (not ready)")
			continue
		}
		if err != nil || nodeOf(resp.GetVolume()) != tt.want {
			t.Errorf("%s: the volume is %v, %v, want it on %s", tt.name, resp, err, tt.want)
		}
	}
	// The scheduler knows what the pod tolerates.
	if got := nodeOf(c.create(createRequest("chosen", "node-a", "node-b"))); got != "node-a" {
		t.Errorf("the volume is on %s, which the caller does not prefer", got)
	}
}
