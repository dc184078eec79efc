package controllerserver

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func (c *controller) modify(t *testing.T, id string, params map[string]string) error {
	t.Helper()
	_, err := c.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
		VolumeId: id, MutableParameters: params,
	})
	return err
}

func TestModifyAnswersWithItsCode(t *testing.T) {
	c := newController(t, "p")
	directory := c.create(t, createRequest("v")).GetVolumeId()
	image := c.create(t, with(t, "image", formatted("ext4"))).GetVolumeId()
	retention := map[string]string{"trashRetention": "1h"}
	tests := []struct {
		name, id string
		params   map[string]string
		want     codes.Code
		text     string
	}{
		{"retention", directory, retention, codes.OK, ""},
		{"the same again", directory, retention, codes.OK, ""},
		{"nothing", directory, nil, codes.OK, ""},
		{"an unknown key", directory, map[string]string{"iops": "1"}, codes.InvalidArgument, "known: "},
		{
			"I/O of a directory", directory,
			map[string]string{"readIOPS": "100"},
			codes.InvalidArgument, "backing: image",
		},
		{
			"no limit of a directory's I/O", directory,
			map[string]string{"readIOPS": "default"},
			codes.OK, "",
		},
		{
			"I/O where limits are off", image,
			map[string]string{"readIOPS": "100"},
			codes.FailedPrecondition, "config.ioLimits",
		},
		{
			"inodes without quotas", directory,
			map[string]string{"inodes": "100"},
			codes.InvalidArgument, "prjquota",
		},
		{
			"inodes of an image", image,
			map[string]string{"inodes": "100"},
			codes.InvalidArgument, "for directories",
		},
		{"no ID", "", retention, codes.InvalidArgument, ""},
		{"nobody's", "none", retention, codes.NotFound, ""},
		{"a path of the host", "host-0123456789ab-v", retention, codes.InvalidArgument, "path of the host"},
		{"of another node", "0123456789ab-v", retention, codes.NotFound, ""},
		{"in a pool that is not open", closedPool + "-v", retention, codes.Unavailable, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := c.modify(t, tt.id, tt.params)
			wantCode(t, err, tt.want)
			if err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, want %q in it", err, tt.text)
			}
		})
	}
}

func TestModificationIsInTheRecordAndRefusedOnesAreNot(t *testing.T) {
	c := newController(t, "p")
	id := c.create(t, createRequest("v")).GetVolumeId()
	fixture.Must(t, c.modify(t, id, map[string]string{"trashRetention": "90m"}))
	wantCode(t, c.modify(t, id, map[string]string{"trashRetention": "2h", "readIOPS": "100"}),
		codes.InvalidArgument)
	parsed, err := volume.ParseID(id)
	fixture.Must(t, err)
	f, err := c.pools[0].AnyData(parsed)
	fixture.Must(t, err)
	defer f.Close()
	data, err := os.Readlink(openat.PathOfFD(int(f.Fd())))
	fixture.Must(t, err)
	record, err := os.ReadFile(filepath.Join(filepath.Dir(data), "volume.json"))
	fixture.Must(t, err)
	if want := `"trashRetention": "1h30m0s"`; !strings.Contains(string(record), want) {
		t.Errorf("the record is %s, want %s", record, want)
	}
}

func TestVolumeIsCreatedWithItsVolumeAttributesClass(t *testing.T) {
	c := newController(t, "p")
	req := createRequest("v")
	req.MutableParameters = map[string]string{"trashRetention": "1h"}
	first := c.create(t, req).GetVolumeId()
	if again := c.create(t, req).GetVolumeId(); again != first {
		t.Errorf("the same request made %s, then %s", first, again)
	}
	req.MutableParameters = map[string]string{"trashRetention": "2h"}
	_, err := c.CreateVolume(t.Context(), req)
	wantCode(t, err, codes.AlreadyExists)

	image := with(t, "image", formatted("ext4"))
	image.MutableParameters = map[string]string{"readIOPS": "100"}
	_, err = c.CreateVolume(t.Context(), image) // another node may be able to
	wantCode(t, err, codes.ResourceExhausted)
	directory := createRequest("directory")
	directory.MutableParameters = map[string]string{"readIOPS": "100"}
	_, err = c.CreateVolume(t.Context(), directory)
	if err == nil || rpc.Code(err) == codes.OK {
		t.Error("a directory was made whose I/O nothing can limit")
	}
}

func TestDeletedVolumeIsRetainedForItsOwnTime(t *testing.T) {
	c := newController(t, "p")
	for name, retention := range map[string]string{"kept": "1h", "purged": "0s"} {
		id := c.create(t, createRequest(name)).GetVolumeId()
		fixture.Must(t, c.modify(t, id, map[string]string{"trashRetention": retention}))
		_, err := c.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
		fixture.Must(t, err)
	}
	trash := func() int64 {
		status, err := c.pools[0].Status()
		fixture.Must(t, err)
		return status.TrashBytes
	}
	fixture.Eventually(t, "one volume is left in the trash", func() bool { return trash() == mib },
		func() any { return trash() })
}

func TestVolumeIsConfirmedOnlyWithWhatItHas(t *testing.T) {
	c := newController(t, "p")
	req := createRequest("v")
	req.MutableParameters = map[string]string{"trashRetention": "1h"}
	id := c.create(t, req).GetVolumeId()
	for retention, want := range map[string]bool{"1h": true, "60m": true, "2h": false, "soon": false} {
		params := map[string]string{"trashRetention": retention}
		resp, err := c.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: req.GetVolumeCapabilities(), MutableParameters: params,
		})
		fixture.Must(t, err)
		if confirmed := resp.GetConfirmed(); (confirmed != nil) != want ||
			want && !maps.Equal(confirmed.GetMutableParameters(), params) {
			t.Errorf("%s: %v, want confirmed: %v", retention, resp, want)
		}
	}
}
