package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	rpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// toldNode is the link of a node with one pool, which has volumes 0, 1, ….
type toldNode struct {
	grpc.ClientConnInterface

	volumes int
	old     bool // of before the Status service
	hangs   bool
	invalid bool   // says that every question is invalid
	speaks  string // the pool of which it tells, if that is not its own
	pool    string
	asked   *atomic.Int64
}

// Invoke implements grpc.ClientConnInterface.
func (n toldNode) Invoke(
	ctx context.Context, method string, args, reply any, _ ...grpc.CallOption,
) error {
	n.asked.Add(1)
	switch {
	case n.hangs:
		<-ctx.Done()
		return rpcstatus.FromContextError(ctx.Err()).Err()
	case n.invalid:
		return rpcstatus.Error(codes.InvalidArgument, "so it says")
	case n.old:
		return rpcstatus.Error(codes.Unimplemented, "unknown service")
	}
	switch reply := reply.(type) {
	case *linkpb.PoolStatusList:
		proto.Merge(reply, &linkpb.PoolStatusList{
			Items: []*linkpb.PoolStatus{{Name: "p", Id: cmp.Or(n.speaks, n.pool), Ready: true}},
		})
	case *linkpb.VolumeStatusList:
		q, _ := args.(*linkpb.StatusQuery)
		first := 0
		if q.GetAfter() != "" {
			if _, err := fmt.Sscanf(q.GetAfter(), "v-%d", &first); err != nil {
				return rpcstatus.Error(codes.InvalidArgument, "after")
			}
			first++
		}
		for i := first; i < n.volumes; i++ {
			if len(reply.GetItems()) == int(q.GetLimit()) {
				reply.Next = fmt.Sprintf("v-%d", i-1)
				break
			}
			reply.Items = append(reply.Items, &linkpb.VolumeStatus{
				Id: fmt.Sprintf("%s-v-%d", cmp.Or(n.speaks, n.pool), i),
			})
		}
	case *linkpb.VolumeStatus:
		id, _ := args.(*linkpb.GetVolumeStatusRequest)
		reply.Id, reply.Name = id.GetId(), "pvc-1"
		if n.speaks != "" {
			reply.Id = n.speaks + "-v-0"
		}
		for _, pool := range []string{n.pool, "0000000000ff"} {
			reply.Snapshots = append(reply.Snapshots, &linkpb.SnapshotStatus{Id: pool + "-s-1"})
		}
	case *linkpb.SnapshotStatusList:
		reply.Items = []*linkpb.SnapshotStatus{{Id: cmp.Or(n.speaks, n.pool) + "-s-1"}}
	case *linkpb.TrashList:
		reply.Items = []*linkpb.TrashStatus{{Id: cmp.Or(n.speaks, n.pool) + "-v"}, {Entry: "e"}}
	case *linkpb.CopyList:
		reply.Items = []*linkpb.CopyStatus{{What: "volume " + cmp.Or(n.speaks, n.pool) + "-v"}}
	default:
		return fmt.Errorf("%s is not expected", method)
	}
	return nil
}

// newToldFleet returns a fleet of nodes, which the map names; nil is a node that is not linked.
func newToldFleet(nodes []*toldNode) (*fleetStatus, *atomic.Int64) {
	asked := &atomic.Int64{}
	var details []router.NodeDetails
	for i, n := range nodes {
		d := router.NodeDetails{NodeStatus: router.NodeStatus{
			Name: fmt.Sprintf("node-%04d", i), Since: time.Unix(1_700_000_000, 0), Pushed: true,
		}}
		pool := router.PushedPool{
			Name: "p", ID: volume.PoolID(fmt.Sprintf("%012x", i)), SizeBytes: 100, AvailableBytes: 60,
			Snapshots: 1,
		}
		if n != nil {
			n.asked, n.pool = asked, string(pool.ID)
			d.Linked, d.Conn, pool.Volumes = true, *n, int64(n.volumes)
		}
		d.Pools = []router.PushedPool{pool}
		details = append(details, d)
	}
	return &fleetStatus{
		driverName: "test", details: func() []router.NodeDetails { return details },
		object: func(string) (o lifecycle.VolumeObject, exists, known bool) {
			return lifecycle.VolumeObject{ClaimNamespace: "ns", Claim: "data"}, true, true
		},
		asked: make(chan struct{}, maxAsked),
	}, asked
}

// allOf reads a list to its end.
func allOf[T any](
	t *testing.T, list func(context.Context, status.Query) (status.List[T], error), q status.Query,
) (items []T, missing []status.Missing) {
	t.Helper()
	for range 10_000 {
		l, err := list(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Items) > q.Limit {
			t.Fatalf("%d items, at most %d were asked for", len(l.Items), q.Limit)
		}
		items, missing = append(items, l.Items...), append(missing, l.Missing...)
		if l.Next == "" {
			return items, missing
		}
		q.After = l.Next
	}
	t.Fatal("the list has no end")
	return nil, nil
}

func TestVolumesOfAllNodesAreListedOnceWhateverThePart(t *testing.T) {
	counts := []int{0, 3, 1, 0, 7, 2, 0, 1, 1, 1, 25, 0}
	var nodes []*toldNode
	want := 0
	for _, n := range counts {
		nodes = append(nodes, &toldNode{volumes: n})
		want += n
	}
	f, _ := newToldFleet(nodes)
	for _, limit := range []int{1, 2, 5, 10, 500} {
		volumes, _ := allOf(t, f.Volumes, status.Query{Limit: limit})
		seen := map[string]bool{}
		last := ""
		for _, v := range volumes {
			key := v.Node + "/" + v.ID
			if seen[key] || v.Node < last {
				t.Errorf("limit %d: %s is there twice, or after %s", limit, key, last)
			}
			seen[key], last = true, v.Node
			if v.Claim == nil || v.Claim.Name != "data" || !v.PersistentVolume.Exists {
				t.Errorf("without what the API server has: %+v", v)
			}
		}
		if len(volumes) != want {
			t.Errorf("limit %d: %d volumes, want %d", limit, len(volumes), want)
		}
	}
	volumes, _ := allOf(t, f.Volumes, status.Query{Limit: 5, Node: "node-0004"})
	if len(volumes) != 7 {
		t.Errorf("%d volumes of a node, want 7", len(volumes))
	}
	volumes, _ = allOf(t, f.Volumes, status.Query{Limit: 5, Pool: "other"})
	if len(volumes) != 0 {
		t.Errorf("%d volumes of a pool that no node has", len(volumes))
	}
}

func TestNodesThatCannotBeAskedAreMissingWithTheReason(t *testing.T) {
	f, _ := newToldFleet([]*toldNode{{volumes: 1}, nil, {volumes: 1, old: true}})
	_, missing := allOf(t, f.Volumes, status.Query{Limit: 10})
	text := fmt.Sprint(missing)
	if len(missing) != 2 || !strings.Contains(text, "node-0001  it is not linked") ||
		!strings.Contains(text, "node-0002  the node's driver is older") {
		t.Errorf("missing: %s", text)
	}
	// Of pools more is known.
	pools, _ := allOf(t, f.Pools, status.Query{Limit: 10})
	if len(pools) != 3 || pools[0].AsOf != nil || pools[1].AsOf == nil || pools[2].AsOf == nil ||
		pools[1].AvailableBytes != 60 {
		t.Errorf("%+v", pools)
	}
	if _, err := f.Volume(t.Context(), "000000000001-v"); !errors.Is(err, errNotLinked) {
		t.Errorf("%v, want %v", err, errNotLinked)
	}
	for _, id := range []string{"", "x", "0000000000ff-v"} {
		if _, err := f.Volume(t.Context(), id); !errors.Is(err, status.ErrNotFound) {
			t.Errorf("%q: %v, want ErrNotFound", id, err)
		}
	}
	v, err := f.Volume(t.Context(), "000000000000-v")
	if err != nil || v.ID != "000000000000-v" || v.Node != "node-0000" {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestNodeThatHangsDelaysAListAndDoesNotStopIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newToldFleet([]*toldNode{{volumes: 1, hangs: true}, {volumes: 1}})
		begin := time.Now()
		l, err := f.Volumes(t.Context(), status.Query{Limit: 10})
		if err != nil || len(l.Items) != 1 || len(l.Missing) != 1 || l.Missing[0].Node != "node-0000" {
			t.Errorf("%+v, %v", l, err)
		}
		if waited := time.Since(begin); waited != nodePatience {
			t.Errorf("the list waited %v for the node, want %v", waited, nodePatience)
		}
	})
}

// A node is broken, or somebody else has its certificate.
func TestNodeThatCallsEveryQuestionInvalidIsMissing(t *testing.T) {
	f, _ := newToldFleet([]*toldNode{{volumes: 1, invalid: true}, {volumes: 2}})
	volumes, missing := allOf(t, f.Volumes, status.Query{Limit: 1})
	if len(volumes) != 2 || len(missing) != 1 || missing[0].Node != "node-0000" {
		t.Errorf("%d volumes, missing: %+v", len(volumes), missing)
	}
	if pools, _ := allOf(t, f.Pools, status.Query{Limit: 10}); len(pools) != 2 {
		t.Errorf("pools: %+v", pools)
	}
	_, err := f.Volumes(t.Context(), status.Query{Limit: 1, After: "node-0001/x"})
	if !errors.Is(err, status.ErrInvalid) {
		t.Errorf("an after that no list has: %v, want ErrInvalid", err)
	}
}

func TestNodeDoesNotSpeakForThePoolOfAnother(t *testing.T) {
	const foreign = "000000000001"
	f, _ := newToldFleet([]*toldNode{{volumes: 2, speaks: foreign}, {volumes: 2}})
	checkLies(t, f)
	// The node also claims the pool on its link.
	all := f.details()
	all[0].Pools = append(all[0].Pools, router.PushedPool{
		Name: "p", ID: foreign, NotReady: "another node has this pool", Foreign: true,
	})
	f.details = func() []router.NodeDetails { return all }
	pools, _ := allOf(t, f.Pools, status.Query{Limit: 10})
	if len(pools) != 2 || pools[0].Ready || pools[0].Reason == "" || !pools[1].Ready {
		t.Errorf("pools: %+v", pools)
	}
	checkLies(t, f)
	v, err := f.Volume(t.Context(), foreign+"-v")
	if err != nil || v.Node != "node-0001" || len(v.Snapshots) != 1 {
		t.Errorf("volume: %+v, %v", v, err)
	}
	if v, err := f.Volume(t.Context(), "000000000000-v"); err == nil {
		t.Errorf("another volume was answered: %+v", v)
	}
}

// checkLies looks at lists of a fleet whose first node tells only of the second one's pool.
func checkLies(t *testing.T, f *fleetStatus) {
	t.Helper()
	q := status.Query{Limit: 10}
	volumes, missing := allOf(t, f.Volumes, q)
	for _, v := range volumes {
		if v.Node != "node-0001" {
			t.Errorf("volume %s of %s", v.ID, v.Node)
		}
	}
	if len(volumes) != 2 || len(missing) != 1 || missing[0].Node != "node-0000" {
		t.Errorf("%d volumes, missing: %+v", len(volumes), missing)
	}
	snapshots, _ := allOf(t, f.Snapshots, q)
	trash, _ := allOf(t, f.Trash, q)
	copies, _ := allOf(t, f.Copies, q)
	if len(snapshots) != 1 || len(copies) != 1 || len(trash) != 3 || trash[0].ID != "" {
		t.Errorf("snapshots %+v, copies %+v, trash %+v", snapshots, copies, trash)
	}
}

// Whatever the parts are, a list names each node that is not linked once, where it is walked.
func TestUnlinkedNodesAreMissingOnce(t *testing.T) {
	var nodes []*toldNode
	for i := range 700 {
		if i%3 == 0 {
			nodes = append(nodes, nil)
		} else {
			nodes = append(nodes, &toldNode{volumes: 1})
		}
	}
	f, _ := newToldFleet(nodes)
	for _, limit := range []int{7, 100, 500} {
		l, err := f.Volumes(t.Context(), status.Query{Limit: limit})
		if err != nil || l.Missing[len(l.Missing)-1].Node > strings.TrimSuffix(l.Next, "/") {
			t.Errorf("limit %d: the part ends at %s, %v, and names %+v", limit, l.Next, err, l.Missing)
		}
		for what, read := range map[string]func() (int, []status.Missing){
			"volumes": func() (int, []status.Missing) {
				items, missing := allOf(t, f.Volumes, status.Query{Limit: limit})
				return 700 - 234 - len(items), missing
			},
			"pools": func() (int, []status.Missing) {
				items, missing := allOf(t, f.Pools, status.Query{Limit: limit})
				return 700 - len(items), missing
			},
		} {
			absent, missing := read()
			named := map[string]bool{}
			for _, m := range missing {
				named[m.Node] = true
			}
			if absent != 0 || len(missing) != 234 || len(named) != 234 {
				t.Errorf("limit %d: %d %s are absent, %d times %d nodes are missing, want 234", limit,
					absent, what, len(missing), len(named))
			}
		}
	}
}

// A page costs as many questions as it has nodes, in a fleet of any size.
func TestPartOfAListAsksFewNodesOfALargeFleet(t *testing.T) {
	var nodes []*toldNode
	for range 5000 {
		nodes = append(nodes, &toldNode{volumes: 20})
	}
	f, asked := newToldFleet(nodes)
	l, err := f.Volumes(t.Context(), status.Query{Limit: 100})
	if err != nil || len(l.Items) != 100 || l.Next == "" {
		t.Errorf("%d items, next %q, %v", len(l.Items), l.Next, err)
	}
	if n := asked.Load(); n > 8 {
		t.Errorf("%d nodes were asked for 100 volumes", n)
	}
	asked.Store(0)
	l2, err := f.Pools(t.Context(), status.Query{Limit: 100})
	if n := asked.Load(); err != nil || len(l2.Items) != 100 || n > 120 {
		t.Errorf("%d pools, %d nodes were asked, %v", len(l2.Items), n, err)
	}
	asked.Store(0)
	o, err := f.Overview(t.Context())
	if err != nil || o.Nodes != 5000 || o.Volumes != 100_000 || asked.Load() != 0 {
		t.Errorf("%+v, %v, %d nodes were asked", o, err, asked.Load())
	}
	// Nobody is linked: the walk ends.
	f, _ = newToldFleet(make([]*toldNode, 5000))
	l, err = f.Volumes(t.Context(), status.Query{Limit: 100})
	if err != nil || l.Next == "" || len(l.Missing) > status.DefaultLimit {
		t.Errorf("next %q, %d missing, %v", l.Next, len(l.Missing), err)
	}
	nodesList, err := f.Nodes(t.Context(), status.Query{Limit: 100})
	if err != nil || len(nodesList.Items) != 100 || nodesList.Next != "node-0099" {
		t.Errorf("%d nodes, next %q, %v", len(nodesList.Items), nodesList.Next, err)
	}
}
