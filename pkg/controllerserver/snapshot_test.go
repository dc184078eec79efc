package controllerserver

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func (c *controller) snapshot(t *testing.T, name, source string) *csi.Snapshot {
	t.Helper()
	resp, err := c.CreateSnapshot(t.Context(),
		&csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSnapshot()
}

// listSnapshots returns the IDs of all pages, and follows the tokens to the last page.
func (c *controller) listSnapshots(t *testing.T, filter *csi.ListSnapshotsRequest) []string {
	t.Helper()
	var ids []string
	for {
		resp, err := c.ListSnapshots(t.Context(), filter)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(resp.GetEntries()); filter.GetMaxEntries() > 0 && n > int(filter.GetMaxEntries()) {
			t.Fatalf("a page of %d has %d", filter.GetMaxEntries(), n)
		}
		for _, e := range resp.GetEntries() {
			ids = append(ids, e.GetSnapshot().GetSnapshotId())
		}
		if filter.StartingToken = resp.GetNextToken(); filter.GetStartingToken() == "" {
			return ids
		}
	}
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
	}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
	}}
}

func TestSnapshotSaysWhatItIsAndWhere(t *testing.T) {
	c := newController(t, "p")
	source := c.create(t, createRequest("v")).GetVolumeId()
	s := c.snapshot(t, "s", source)
	if s.GetSnapshotId() != string(c.pools[0].ID())+"-s-s" || s.GetSourceVolumeId() != source ||
		s.GetSizeBytes() != mib ||
		!s.GetReadyToUse() ||
		s.GetCreationTime().AsTime().IsZero() {
		t.Errorf("the snapshot is %v", s)
	}
	if where := s.GetAccessibleTopology(); len(where) != 1 ||
		where[0].GetSegments()["topology.example/node"] != "node-1" {
		t.Errorf("the snapshot is at %v", where)
	}
	got, err := c.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: s.GetSnapshotId()})
	if err != nil || !proto.Equal(got.GetSnapshot(), s) {
		t.Errorf("GetSnapshot says %v, %v, want %v", got, err, s)
	}
	list, err := c.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{})
	if err != nil || len(list.GetEntries()) != 1 ||
		!proto.Equal(list.GetEntries()[0].GetSnapshot(), s) {
		t.Errorf("ListSnapshots says %v, %v, want %v", list, err, s)
	}
}

func TestCreateSnapshotAnswersWithItsCode(t *testing.T) {
	c := newController(t, "p")
	source := c.create(t, createRequest("v")).GetVolumeId()
	other := c.create(t, createRequest("w")).GetVolumeId()
	c.snapshot(t, "taken", other)
	node := func(name string) *csi.TopologyRequirement {
		return &csi.TopologyRequirement{
			Requisite: []*csi.Topology{{Segments: map[string]string{"topology.example/node": name}}},
		}
	}
	tests := []struct {
		name string
		req  *csi.CreateSnapshotRequest
		want codes.Code
	}{
		{"made", &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source}, codes.OK},
		{"again", &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source}, codes.OK},
		{
			"on this node",
			&csi.CreateSnapshotRequest{
				Name:                      "s",
				SourceVolumeId:            source,
				AccessibilityRequirements: node("node-1"),
			},
			codes.OK,
		},
		{
			"with metadata",
			&csi.CreateSnapshotRequest{
				Name:           "m",
				SourceVolumeId: source,
				Parameters:     map[string]string{volume.ParamSnapshotName: "daily"},
			},
			codes.OK,
		},
		{
			"name of another volume's",
			&csi.CreateSnapshotRequest{Name: "taken", SourceVolumeId: source},
			codes.AlreadyExists,
		},
		{"no name", &csi.CreateSnapshotRequest{SourceVolumeId: source}, codes.InvalidArgument},
		{"no source", &csi.CreateSnapshotRequest{Name: "t"}, codes.InvalidArgument},
		{
			"hostile source",
			&csi.CreateSnapshotRequest{Name: "t", SourceVolumeId: "0123456789ab-../../etc"},
			codes.NotFound,
		},
		{
			"a path of the host",
			&csi.CreateSnapshotRequest{Name: "t", SourceVolumeId: "host-0123456789ab-v"},
			codes.InvalidArgument,
		},
		{
			"a snapshot of a snapshot",
			&csi.CreateSnapshotRequest{Name: "t", SourceVolumeId: "0123456789ab-s-taken"},
			codes.NotFound,
		},
		{
			"absent source",
			&csi.CreateSnapshotRequest{Name: "t", SourceVolumeId: string(c.pools[0].ID()) + "-absent"},
			codes.NotFound,
		},
		{
			"source of another node",
			&csi.CreateSnapshotRequest{Name: "t", SourceVolumeId: "0123456789ab-v"},
			codes.NotFound,
		},
		{
			"source in a pool that is not open",
			&csi.CreateSnapshotRequest{Name: "t", SourceVolumeId: closedPool + "-v"},
			codes.Unavailable,
		},
		{
			"unknown parameter",
			&csi.CreateSnapshotRequest{
				Name:           "t",
				SourceVolumeId: source,
				Parameters:     map[string]string{"pool": "fast"},
			},
			codes.InvalidArgument,
		},
		{
			"on another node",
			&csi.CreateSnapshotRequest{
				Name:                      "t",
				SourceVolumeId:            source,
				AccessibilityRequirements: node("node-2"),
			},
			codes.ResourceExhausted,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.CreateSnapshot(t.Context(), tt.req)
			wantCode(t, err, tt.want)
		})
	}
	if got := c.listSnapshots(t, &csi.ListSnapshotsRequest{}); len(got) != 3 {
		t.Errorf("the snapshots are %q", got)
	}
}

func TestDeleteAndGetSnapshotAnswerWithTheirCodes(t *testing.T) {
	c := newController(t, "p")
	source := c.create(t, createRequest("v")).GetVolumeId()
	there := c.snapshot(t, "s", source).GetSnapshotId()
	tests := []struct {
		name        string
		id          string
		get, delete codes.Code
	}{
		{"there", there, codes.OK, codes.OK},
		{"gone", there, codes.NotFound, codes.OK},
		{"never there", string(c.pools[0].ID()) + "-s-never", codes.NotFound, codes.OK},
		{"nobody's", "reallyfakesnapshotid", codes.NotFound, codes.OK},
		{"hostile", "0123456789ab-s-../../etc", codes.NotFound, codes.OK},
		{"a volume's", source, codes.NotFound, codes.OK},
		{"of another node", "0123456789ab-s-s", codes.NotFound, codes.NotFound},
		{"in a pool that is not open", closedPool + "-s-s", codes.Unavailable, codes.Unavailable},
		{"empty", "", codes.InvalidArgument, codes.InvalidArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: tt.id})
			wantCode(t, err, tt.get)
			_, err = c.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: tt.id})
			wantCode(t, err, tt.delete)
		})
	}
	if _, err := c.ControllerGetVolume(
		t.Context(),
		&csi.ControllerGetVolumeRequest{VolumeId: source},
	); err != nil {
		t.Errorf("DeleteSnapshot with a volume's ID deleted the volume: %v", err)
	}
}

func TestSnapshotPagesAreCompleteWhateverTheFilter(t *testing.T) {
	c := newController(t, "a", "b", "c") // pool c stays empty
	var all, ofOne []string
	for _, name := range []string{"a", "b"} {
		one := c.create(t, with(t, "one", map[string]string{"pool": name})).GetVolumeId()
		other := c.create(t, with(t, "other", map[string]string{"pool": name})).GetVolumeId()
		for i := range 7 {
			id := c.snapshot(t, fmt.Sprintf("s-%d", i), []string{one, other}[i%2]).GetSnapshotId()
			all = append(all, id)
			if name == "b" && i%2 == 0 {
				ofOne = append(ofOne, id)
			}
		}
	}
	slices.Sort(all)
	slices.Sort(ofOne)
	source := c.pools[1].List("", 1)[0].ID.String()
	for _, size := range []int32{0, 1, 2, 6, 7, 8, 13, 14, 15, math.MaxInt32} {
		if got := c.listSnapshots(
			t,
			&csi.ListSnapshotsRequest{MaxEntries: size},
		); !slices.Equal(
			got, all,
		) {
			t.Errorf("in pages of %d: %q, want %q", size, got, all)
		}
		if got := c.listSnapshots(
			t,
			&csi.ListSnapshotsRequest{MaxEntries: size, SourceVolumeId: source},
		); !slices.Equal(
			got, ofOne,
		) {
			t.Errorf("of %s in pages of %d: %q, want %q", source, size, got, ofOne)
		}
		if got := c.listSnapshots(
			t,
			&csi.ListSnapshotsRequest{MaxEntries: size, SnapshotId: all[3]},
		); !slices.Equal(
			got, all[3:4],
		) {
			t.Errorf("%s alone is %q", all[3], got)
		}
	}
	for _, filter := range []*csi.ListSnapshotsRequest{
		{SnapshotId: "none"},
		{SnapshotId: "0123456789ab-s-s"},
		{SnapshotId: string(c.pools[0].ID()) + "-s-never"},
		{SourceVolumeId: "none"},
		{SourceVolumeId: "0123456789ab-v"},
		{SourceVolumeId: string(c.pools[0].ID()) + "-never"},
		{SnapshotId: all[slices.IndexFunc(all, func(id string) bool { return !slices.Contains(ofOne, id) })], SourceVolumeId: source},
	} {
		if got := c.listSnapshots(t, filter); len(got) > 0 {
			t.Errorf("%v lists %q", filter, got)
		}
	}
}

func TestClientThatPagesSeesEverySurvivingSnapshotOnce(t *testing.T) {
	c := newController(t, "a", "b")
	var survivors, sources []string
	for _, pool := range []string{"a", "b"} {
		sources = append(sources,
			c.create(t, with(t, "v", map[string]string{"pool": pool})).GetVolumeId())
	}
	for i := range 20 {
		for _, source := range sources {
			survivors = append(survivors, c.snapshot(t, fmt.Sprintf("s-%02d", i), source).GetSnapshotId())
		}
	}
	stop := churn(t, func(client, i int) error {
		resp, err := c.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
			Name: fmt.Sprintf("s-%02d-%d", i%20, client), SourceVolumeId: sources[client%2],
		})
		if err == nil {
			_, err = c.DeleteSnapshot(t.Context(),
				&csi.DeleteSnapshotRequest{SnapshotId: resp.GetSnapshot().GetSnapshotId()})
		}
		return err
	})
	defer stop()
	for range 20 {
		seen := map[string]int{}
		for _, id := range c.listSnapshots(t, &csi.ListSnapshotsRequest{MaxEntries: 7}) {
			seen[id]++
		}
		for _, source := range sources {
			req := &csi.ListSnapshotsRequest{MaxEntries: 7, SourceVolumeId: source}
			for _, id := range c.listSnapshots(t, req) {
				seen[id]++
			}
		}
		for _, id := range survivors {
			if seen[id] != 2 {
				t.Errorf("%s was listed %d times among all and those of its volume, want twice", id, seen[id])
			}
		}
	}
}

func TestHostileSnapshotListIsRefused(t *testing.T) {
	c := newController(t, "p")
	for _, token := range []string{"x", "0", "../..", strings.Repeat("x", 128), string(c.pools[0].ID()) + "-v", "\x00"} {
		_, err := c.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{StartingToken: token})
		wantCode(t, err, codes.Aborted)
	}
	_, err := c.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{SourceVolumeId: closedPool + "-v"})
	wantCode(t, err, codes.Unavailable)
	_, err = c.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{SnapshotId: closedPool + "-s-s"})
	wantCode(t, err, codes.Unavailable)
}

func TestCreateFromASourceAnswersWithItsCode(t *testing.T) {
	c := newController(t, "p", "other")
	source := c.create(t, createRequest("v")).GetVolumeId()
	snapshot := c.snapshot(t, "s", source).GetSnapshotId()
	c.create(t, createRequest("empty"))
	raw := c.create(t, with(t, "raw", block())).GetVolumeId()
	rawSnapshot := c.snapshot(t, "raw", raw).GetSnapshotId()
	tests := []struct {
		name   string
		change any
		source *csi.VolumeContentSource
		want   codes.Code
	}{
		{"restored", nil, fromSnapshot(snapshot), codes.OK},
		{"restored", nil, fromSnapshot(snapshot), codes.OK},
		{"restored", nil, fromVolume(source), codes.AlreadyExists},
		{"cloned", nil, fromVolume(source), codes.OK},
		{"in-another-pool", map[string]string{"pool": "other"}, fromSnapshot(snapshot), codes.OK},
		{"larger", &csi.CapacityRange{RequiredBytes: 2 * mib}, fromSnapshot(snapshot), codes.OK},
		{"as-large", &csi.CapacityRange{}, fromSnapshot(snapshot), codes.OK},
		{"empty", nil, fromSnapshot(snapshot), codes.AlreadyExists},
		{"smaller", &csi.CapacityRange{RequiredBytes: mib - 1}, fromSnapshot(snapshot), codes.OutOfRange},
		{"limited", &csi.CapacityRange{LimitBytes: mib - 1}, fromVolume(source), codes.OutOfRange},
		{
			"file",
			map[string]string{"type": "FileOrCreate"},
			fromSnapshot(snapshot),
			codes.InvalidArgument,
		},
		{"block", block(), fromSnapshot(rawSnapshot), codes.OK},
		{"block-of-a-directory", block(), fromSnapshot(snapshot), codes.InvalidArgument},
		{"block-of-a-directory", block(), fromVolume(source), codes.InvalidArgument},
		{"directory-of-a-block", nil, fromSnapshot(rawSnapshot), codes.InvalidArgument},
		{"filesystem-of-a-block", formatted("xfs"), fromVolume(raw), codes.InvalidArgument},
		{"image-of-a-directory", formatted("xfs"), fromVolume(source), codes.InvalidArgument},
		{"nothing", nil, &csi.VolumeContentSource{}, codes.InvalidArgument},
		{"absent", nil, fromSnapshot(string(c.pools[0].ID()) + "-s-never"), codes.NotFound},
		{"absent", nil, fromVolume(string(c.pools[0].ID()) + "-never"), codes.NotFound},
		{"nobodys", nil, fromSnapshot("non-existing-snapshot-id"), codes.NotFound},
		{"nobodys", nil, fromVolume("non-existing-volume-id"), codes.NotFound},
		{"a-volume-as-a-snapshot", nil, fromSnapshot(source), codes.NotFound},
		{"host", nil, fromVolume("host-0123456789ab-v"), codes.InvalidArgument},
		{"elsewhere", nil, fromSnapshot("0123456789ab-s-s"), codes.ResourceExhausted},
		{"elsewhere", nil, fromVolume("0123456789ab-v"), codes.ResourceExhausted},
		// another node may have that pool
		{"closed", nil, fromSnapshot(closedPool + "-s-s"), codes.ResourceExhausted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := createRequest(tt.name)
			if tt.change != nil {
				req = with(t, tt.name, tt.change)
			}
			req.VolumeContentSource = tt.source
			resp, err := c.CreateVolume(t.Context(), req)
			wantCode(t, err, tt.want)
			if err == nil && !proto.Equal(resp.GetVolume().GetContentSource(), tt.source) {
				t.Errorf("the answer has the source %v, want %v", resp.GetVolume().GetContentSource(),
					tt.source)
			}
		})
	}
}

// A user who reads "no space" makes room, where the pod has to go to another node.
func TestCopyFromAnotherNodeSaysWhereItsSourceIs(t *testing.T) {
	c := newController(t, "p")
	for source, words := range map[*csi.VolumeContentSource][]string{
		fromSnapshot("0123456789ab-s-s"): {"pool 0123456789ab of another node", "Immediate"},
		fromVolume("0123456789ab-v"):     {"pool 0123456789ab of another node", "Immediate"},
		// an optional pool that is not open may have it
		fromVolume(closedPool + "-v"): {
			"pool " + closedPool + " of another node", "if it is on this node",
		},
	} {
		req := createRequest("v")
		req.VolumeContentSource = source
		_, err := c.CreateVolume(t.Context(), req)
		wantCode(t, err, codes.ResourceExhausted)
		for _, word := range append(words, "not on this node, "+c.place()) {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%v\ndoes not say %q", err, word)
			}
		}
		if strings.Contains(err.Error(), "no space") {
			t.Errorf("%v\nblames the room", err)
		}
	}
}
