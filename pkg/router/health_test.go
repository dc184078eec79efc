package router

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func (c *cluster) listHealth(pageSize int32) (ids []string) {
	c.t.Helper()
	for token := ""; ; {
		resp, err := c.client.ControllerListVolumeHealth(c.t.Context(),
			&csi.ControllerListVolumeHealthRequest{MaxEntries: pageSize, StartingToken: token})
		if err != nil {
			c.t.Fatal(err)
		}
		if n := len(resp.GetEntries()); pageSize > 0 && n > int(pageSize) {
			c.t.Fatalf("a page of %d has %d", pageSize, n)
		}
		for _, e := range resp.GetEntries() {
			ids = append(ids, e.GetVolumeId())
		}
		if token = resp.GetNextToken(); token == "" {
			return ids
		}
	}
}

// damage gives a volume of a node a fault, as a failed staging does, and pushes that.
func (n *testNode) damage(id string) {
	n.c.t.Helper()
	parsed, err := volume.ParseID(id)
	if err != nil {
		n.c.t.Fatal(err)
	}
	p, err := n.pools.ByID(parsed.Pool())
	if err != nil {
		n.c.t.Fatal(err)
	}
	v, err := p.Get(parsed)
	if err != nil {
		n.c.t.Fatal(err)
	}
	v.AddFault(volume.FaultImageDamaged)
}

func TestListOfHealthHasTheUnhealthyVolumesOfAllNodes(t *testing.T) {
	c := newCluster(t, Options{})
	var want []string
	var nodes []*testNode
	for _, name := range []string{"node-a", "node-b", "healthy"} {
		n := c.addNode(name, "p", "q", "empty")
		for i, pool := range []string{"p", "q", "p", "q", "p"} {
			req := createRequest(name+string(rune('0'+i)), name)
			req.Parameters = map[string]string{"pool": pool}
			id := c.create(req).GetVolumeId()
			if i < 4 && name != "healthy" {
				n.damage(id)
				want = append(want, id)
			}
		}
		n.push(nil)
		nodes = append(nodes, n)
	}
	slices.Sort(want)
	for _, size := range []int32{0, 1, 3, 4, 7, 8, 9} {
		if got := c.listHealth(size); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %q, want %q", size, got, want)
		}
	}
	resp, err := c.client.ControllerGetVolumeHealth(t.Context(),
		&csi.ControllerGetVolumeHealthRequest{VolumeId: want[0]})
	if err != nil || resp.GetVolumeHealth().GetVolumeId() != want[0] ||
		resp.GetVolumeHealth().GetHealthStatuses()[0].GetReason() != "ImageDamaged" {
		t.Errorf("health of %s: %v, %v", want[0], resp, err)
	}
	for range len(nodes[2].calls) {
		if method := <-nodes[2].calls; strings.Contains(method, "Health") {
			t.Errorf("a node without unhealthy volumes has got %s", method)
		}
	}
}

func TestListOfHealthWaitsOnlyForNodesWithUnhealthyVolumes(t *testing.T) {
	c := newCluster(t, Options{})
	a, b := c.addNode("node-a", "p"), c.addNode("node-b", "p")
	id := c.create(createRequest("v", "node-a")).GetVolumeId()
	a.damage(id)
	a.push(nil)
	b.disconnect("of the test")
	if got := c.listHealth(0); !slices.Equal(got, []string{id}) {
		t.Errorf("without a healthy node: %q, want %q", got, id)
	}
	a.disconnect("of the test")
	for name, call := range map[string]func() error{
		"list": func() error {
			_, err := c.client.ControllerListVolumeHealth(t.Context(),
				&csi.ControllerListVolumeHealthRequest{})
			return err
		},
		"get": func() error {
			_, err := c.client.ControllerGetVolumeHealth(t.Context(),
				&csi.ControllerGetVolumeHealthRequest{VolumeId: id})
			return err
		},
	} {
		err := call()
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "node-a") {
			t.Errorf("%s without the unhealthy node: %v", name, err)
		}
	}
}

func TestListOfHealthIsNotCompleteWhileAPoolHasNotBeenOpen(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	closed := &linkpb.Pool{Name: "closed", NotReady: string(volume.ReasonNotMounted)}
	for _, optional := range []bool{false, true} {
		closed.Optional = optional
		state := n.realState()
		state.Pools = append(state.Pools, closed)
		n.push(state)
		_, err := c.client.ControllerListVolumeHealth(t.Context(),
			&csi.ControllerListVolumeHealthRequest{})
		if want := map[bool]codes.Code{false: codes.Unavailable}[optional]; status.Code(err) != want {
			t.Errorf("optional: %v: %v, want %s", optional, err, want)
		}
	}
}

// A node says of volumes that are in no pool what it likes, but of no others.
func TestReferencesWithFaultsAreThoseOfLinkedNodes(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	state := n.realState()
	const reference = "host-0123456789ab-pvc-1"
	state.References = []*linkpb.UnhealthyVolume{
		{Id: reference, Faults: []string{string(volume.FaultGitStale)}},
		{Id: string(n.pools[0].ID()) + "-v", Faults: []string{string(volume.FaultGitStale)}},
		{Id: "", Faults: []string{"x"}},
	}
	for i := range 2 * maxUnhealthy {
		state.References = append(state.References, &linkpb.UnhealthyVolume{Id: fmt.Sprint("r", i)})
	}
	state.Pools[0].AvailableBytes-- // so that push can see it
	n.push(state)
	got := c.References()["node-a"]
	want := []volume.Fault{volume.FaultGitStale}
	if len(got) != maxUnhealthy-2 || !slices.Equal(got[reference], want) {
		t.Errorf("%d references, %q", len(got), got[reference])
	}
	n.disconnect("of the test")
	if got := c.References(); len(got) != 0 {
		t.Errorf("without a link: %v", got)
	}
}

func TestHealthOfANodeIsBounded(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	pool := n.pools[0].ID()
	other := "ffffffffffff"
	state := n.realState()
	many := []*linkpb.UnhealthyVolume{{Id: other + "-v"}, {Id: "../.."}}
	for range 2 * maxUnhealthy {
		v := &linkpb.UnhealthyVolume{Id: string(pool) + "-v"}
		for range 2 * maxFaults {
			v.Faults = append(v.Faults, strings.Repeat("x", 2*maxTextBytes))
		}
		many = append(many, v)
	}
	state.Pools[0].Unhealthy, state.Pools[0].UnhealthyVolumes = many, -1
	state.Pools[0].AvailableBytes-- // so that push can see it
	n.push(state)
	pushed := c.Health()
	if len(pushed) != 1 || len(pushed[0].Unhealthy) != maxUnhealthy-2 {
		t.Fatalf("%d pools, %d volumes", len(pushed), len(pushed[0].Unhealthy))
	}
	faults := pushed[0].Unhealthy[0].Faults
	if len(faults) != maxFaults || len(faults[0]) > maxTextBytes+len("…") {
		t.Errorf("%d faults of %d bytes", len(faults), len(faults[0]))
	}
	long := strings.Repeat("x", 10*maxHealthMessage)
	n.lie(unhealthyLiar{health: &csi.VolumeHealth{
		VolumeId: string(pool) + "-v",
		HealthStatuses: slices.Repeat([]*csi.VolumeHealth_VolumeHealthEntry{{
			Reason: long, Message: long,
		}}, 2*maxFaults),
	}})
	n.waitPushed()
	resp, err := c.client.ControllerGetVolumeHealth(t.Context(),
		&csi.ControllerGetVolumeHealthRequest{VolumeId: string(pool) + "-v"})
	entries := resp.GetVolumeHealth().GetHealthStatuses()
	if err != nil || len(entries) != maxFaults || len(entries[0].GetMessage()) > maxHealthMessage ||
		len(entries[0].GetReason()) > maxTextBytes+len("…") {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	_, err = c.client.ControllerGetVolumeHealth(t.Context(),
		&csi.ControllerGetVolumeHealthRequest{VolumeId: string(pool) + "-w"})
	if status.Code(err) != codes.Internal {
		t.Errorf("an answer about another volume: %v", err)
	}
}

// unhealthyLiar answers with the same health for each volume.
type unhealthyLiar struct {
	csi.ControllerServer

	health *csi.VolumeHealth
}

// ControllerGetVolumeHealth implements csi.ControllerServer.
func (u unhealthyLiar) ControllerGetVolumeHealth(
	context.Context, *csi.ControllerGetVolumeHealthRequest,
) (*csi.ControllerGetVolumeHealthResponse, error) {
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: u.health}, nil
}

func TestHealthCallsOfTheRouterAnswerWithTheirCodes(t *testing.T) {
	c := newCluster(t, Options{})
	c.addNode("node-a", "p")
	_, err := c.client.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("no volume ID: %v", err)
	}
	for token, want := range map[string]codes.Code{"x": codes.Aborted, "0123456789ab-v": codes.OK} {
		_, err := c.client.ControllerListVolumeHealth(t.Context(),
			&csi.ControllerListVolumeHealthRequest{StartingToken: token})
		if status.Code(err) != want {
			t.Errorf("token %q: %v, want %s", token, err, want)
		}
	}
	_, err = c.client.ControllerListVolumeHealth(t.Context(),
		&csi.ControllerListVolumeHealthRequest{MaxEntries: -1})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("max_entries -1: %v", err)
	}
}
