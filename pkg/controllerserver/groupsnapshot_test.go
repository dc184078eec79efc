package controllerserver

import (
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func TestGroupSnapshotAnswersWithItsCode(t *testing.T) {
	c := newController(t, "p", "q")
	image := func(name, pool string) string {
		req := createRequest(name)
		req.CapacityRange = nil
		req.Parameters = map[string]string{"backing": "image", "pool": pool}
		return c.create(t, req).GetVolumeId()
	}
	v, w, other := image("v", "p"), image("w", "p"), image("x", "q")
	request := func(name string, sources ...string) *csi.CreateVolumeGroupSnapshotRequest {
		return &csi.CreateVolumeGroupSnapshotRequest{Name: name, SourceVolumeIds: sources}
	}
	unknown := request("g", v)
	unknown.Parameters = map[string]string{"speed": "fast"}
	for _, tt := range []struct {
		name string
		req  *csi.CreateVolumeGroupSnapshotRequest
		want codes.Code
	}{
		{"without a name", request("", v), codes.InvalidArgument},
		{"without volumes", request("g"), codes.InvalidArgument},
		{"a volume twice", request("g", v, w, v), codes.InvalidArgument},
		{"too many volumes", request("g", slices.Repeat([]string{v}, 65)...), codes.InvalidArgument},
		{"unknown parameter", unknown, codes.InvalidArgument},
		{"a path of the host", request("g", v, "host-0123456789ab-v"), codes.InvalidArgument},
		{"no volume's ID", request("g", v, "vol-1"), codes.NotFound},
		{"absent volume", request("g", v, v[:13]+"absent"), codes.NotFound},
		{"two pools", request("g", v, other), codes.FailedPrecondition},
		{"made", request("g", v, w), codes.OK},
		{"again", request("g", w, v), codes.OK},
		{"of another volume", request("g", v), codes.AlreadyExists},
	} {
		_, err := c.CreateVolumeGroupSnapshot(t.Context(), tt.req)
		t.Run(tt.name, func(t *testing.T) { wantCode(t, err, tt.want) })
	}
	id := "group-" + v[:13] + "g"
	member := c.listSnapshots(t, &csi.ListSnapshotsRequest{SourceVolumeId: v})[0]
	_, err := c.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: member})
	wantCode(t, err, codes.InvalidArgument)
	for _, tt := range []struct {
		id      string
		members []string
		get     codes.Code
		remove  codes.Code
	}{
		{"", nil, codes.InvalidArgument, codes.InvalidArgument},
		{"g", nil, codes.NotFound, codes.OK},
		{v, nil, codes.NotFound, codes.OK},
		{"group-0123456789ab-g", nil, codes.NotFound, codes.NotFound},
		{id + "-2", nil, codes.NotFound, codes.OK},
		{id, []string{member}, codes.InvalidArgument, codes.InvalidArgument},
		{id, nil, codes.OK, codes.OK},
		{id, []string{member}, codes.NotFound, codes.OK},
	} {
		_, err := c.GetVolumeGroupSnapshot(t.Context(),
			&csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: tt.id, SnapshotIds: tt.members})
		wantCode(t, err, tt.get)
		_, err = c.DeleteVolumeGroupSnapshot(t.Context(),
			&csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: tt.id, SnapshotIds: tt.members})
		wantCode(t, err, tt.remove)
	}
}
