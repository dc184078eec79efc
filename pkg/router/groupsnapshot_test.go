package router

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func imageRequest(name, node string) *csi.CreateVolumeRequest {
	req := createRequest(name, node)
	req.CapacityRange = nil
	req.Parameters = map[string]string{"backing": "image"}
	return req
}

func TestGroupSnapshotIsTakenByTheNodeOfItsVolumes(t *testing.T) {
	c := newCluster(t, Options{})
	for _, name := range []string{"node-a", "node-b"} {
		c.addNode(name, "p")
	}
	var ids []string
	for _, name := range []string{"v", "w"} {
		ids = append(ids, c.create(imageRequest(name, "node-b")).GetVolumeId())
	}
	create := &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: ids}
	resp, err := c.groups.CreateVolumeGroupSnapshot(t.Context(), create)
	if err != nil {
		t.Fatal(err)
	}
	made := resp.GetGroupSnapshot()
	var members []string
	for i, s := range made.GetSnapshots() {
		members = append(members, s.GetSnapshotId())
		if s.GetSourceVolumeId() != ids[i] || s.GetGroupSnapshotId() != made.GetGroupSnapshotId() ||
			!s.GetReadyToUse() {
			t.Errorf("snapshot %d is %v", i, s)
		}
	}
	found, err := c.groups.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{
		GroupSnapshotId: made.GetGroupSnapshotId(), SnapshotIds: members,
	})
	if err != nil || !found.GetGroupSnapshot().GetReadyToUse() || len(members) != 2 {
		t.Errorf("found %v, %v", found, err)
	}
	for range 2 {
		_, err = c.groups.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{
			GroupSnapshotId: made.GetGroupSnapshotId(), SnapshotIds: members,
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestGroupSnapshotOfVolumesOfTwoNodesIsRefused(t *testing.T) {
	c := newCluster(t, Options{})
	var ids []string
	for _, name := range []string{"node-a", "node-b"} {
		c.addNode(name, "p")
		ids = append(ids, c.create(imageRequest("v-"+name, name)).GetVolumeId())
	}
	_, err := c.groups.CreateVolumeGroupSnapshot(t.Context(),
		&csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: ids})
	wantCode(t, err, codes.FailedPrecondition, ids[0], ids[1], "one moment")
}

// A node may have a driver of an older release.
func TestNodeWithoutGroupSnapshotsSaysWhatToDo(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	id := c.create(imageRequest("v", "node-a")).GetVolumeId()
	n.lie(n.ControllerServer)
	n.push(nil)
	_, err := c.groups.CreateVolumeGroupSnapshot(t.Context(),
		&csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{id}})
	wantCode(t, err, codes.Unavailable, "node-a", "upgrade")
}
