package router

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func (c *cluster) listVolumes(pageSize int32) (ids []string) {
	c.t.Helper()
	for token := ""; ; {
		resp, err := c.client.ListVolumes(c.t.Context(),
			&csi.ListVolumesRequest{MaxEntries: pageSize, StartingToken: token})
		if err != nil {
			c.t.Fatal(err)
		}
		if n := len(resp.GetEntries()); pageSize > 0 && n > int(pageSize) {
			c.t.Fatalf("a page of %d has %d", pageSize, n)
		}
		for _, e := range resp.GetEntries() {
			ids = append(ids, e.GetVolume().GetVolumeId())
		}
		if token = resp.GetNextToken(); token == "" {
			return ids
		}
	}
}

func (c *cluster) listSnapshots(pageSize int32) (ids []string) {
	c.t.Helper()
	for token := ""; ; {
		resp, err := c.client.ListSnapshots(c.t.Context(),
			&csi.ListSnapshotsRequest{MaxEntries: pageSize, StartingToken: token})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range resp.GetEntries() {
			ids = append(ids, e.GetSnapshot().GetSnapshotId())
		}
		if token = resp.GetNextToken(); token == "" {
			return ids
		}
	}
}

// The pools of the nodes alternate in the order of their IDs, and a node lists all of its own.
func TestPagesOverAllNodesAreCompleteAndInOrder(t *testing.T) {
	c := newCluster(t, Options{})
	var volumes, snapshots []string
	for _, node := range []string{"node-a", "node-b", "node-c"} {
		n := c.addNode(node, "p", "q", "r", "empty")
		for i := range 5 {
			for _, pool := range []string{"p", "q", "r"} {
				req := createRequest(fmt.Sprintf("v-%d", i), node)
				req.Parameters = map[string]string{volume.ParamPool: pool}
				id := c.create(req).GetVolumeId()
				volumes = append(volumes, id)
				s, err := c.client.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
					Name: fmt.Sprintf("s-%s-%d", pool, i), SourceVolumeId: id,
				})
				if err != nil {
					t.Fatal(err)
				}
				snapshots = append(snapshots, s.GetSnapshot().GetSnapshotId())
			}
		}
		n.push(nil)
	}
	slices.Sort(volumes)
	slices.Sort(snapshots)
	for _, size := range []int32{0, 1, 2, 4, 5, 6, 44, 45, 46, math.MaxInt32} {
		if got := c.listVolumes(size); !slices.Equal(got, volumes) {
			t.Errorf("in pages of %d: %q, want %q", size, got, volumes)
		}
		if got := c.listSnapshots(size); !slices.Equal(got, snapshots) {
			t.Errorf("in pages of %d: %q, want %q", size, got, snapshots)
		}
	}
}

func TestNoVolumesAreOneEmptyPage(t *testing.T) {
	c := newCluster(t, Options{})
	if got := c.listVolumes(0); len(got) > 0 {
		t.Errorf("without nodes there are %q", got)
	}
	c.addNode("node-a", "p")
	if got := c.listVolumes(0); len(got) > 0 {
		t.Errorf("an empty pool has %q", got)
	}
}

func TestHostileListRequestIsRefused(t *testing.T) {
	c := newCluster(t, Options{})
	c.addNode("node-a", "p")
	for _, token := range []string{"x", "0", "-1", "../..", strings.Repeat("x", 128), "0123456789ab-.."} {
		_, err := c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: token})
		wantCode(t, err, codes.Aborted)
		_, err = c.client.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{StartingToken: token})
		wantCode(t, err, codes.Aborted)
	}
	_, err := c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.client.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
	for token, want := range map[string]int{"000000000000-x": 1, "ffffffffffff-x": 0} {
		c.create(createRequest("v", "node-a"))
		resp, err := c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: token})
		if err != nil || len(resp.GetEntries()) != want {
			t.Errorf("after %s: %v, %v, want %d volumes", token, resp, err, want)
		}
	}
	for _, req := range []*csi.ListSnapshotsRequest{{SnapshotId: "none"}, {SourceVolumeId: "none"}} {
		resp, err := c.client.ListSnapshots(t.Context(), req)
		if err != nil || len(resp.GetEntries()) > 0 {
			t.Errorf("%v lists %v, %v", req, resp, err)
		}
	}
}

// A list that lacks volumes would look as if they had been deleted.
func TestAListIsCompleteOrSaysWhoIsMissing(t *testing.T) {
	c := newCluster(t, Options{})
	a, b := c.addNode("node-a", "p"), c.addNode("node-b", "p")
	c.create(createRequest("v", "node-a"))
	c.create(createRequest("v", "node-b"))
	first, err := c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 1})
	if err != nil || first.GetNextToken() == "" {
		t.Fatalf("the first page is %v, %v", first, err)
	}
	next := &csi.ListVolumesRequest{MaxEntries: 1, StartingToken: first.GetNextToken()}
	b.disconnect("gone in the middle")
	_, err = c.client.ListVolumes(t.Context(), next)
	wantCode(t, err, codes.Unavailable, "node-b", "gone in the middle")
	b.connect()
	second, err := c.client.ListVolumes(t.Context(), next)
	if err != nil || len(second.GetEntries()) != 1 || second.GetNextToken() != "" {
		t.Errorf("the second page is %v, %v", second, err)
	}
	state := a.realState()
	state.Pools[0].NotReady = string(volume.ReasonDiskFailed)
	a.push(state)
	_, err = c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	wantCode(t, err, codes.Unavailable, "node-a", "disk_failed")
	state = a.realState()
	state.Pools[0].NotReady, state.Pools[0].Optional = string(volume.ReasonDiskFailed), true
	a.push(state)
	if _, err = c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{}); err != nil {
		t.Error(err)
	}
}

// A node whose pages never end is an error, and not a loop.
func TestPagesThatNeverEndAreAnError(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	n.answerList(&csi.ListVolumesResponse{NextToken: "000000000000-x"})
	_, err := c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	wantCode(t, err, codes.Internal, "node-a", "never end")
}
