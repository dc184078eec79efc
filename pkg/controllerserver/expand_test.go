package controllerserver

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestExpandAnswersWithItsCode(t *testing.T) {
	c := newController(t, "p")
	there := c.create(t, createRequest("v")).GetVolumeId()
	tests := []struct {
		name string
		id   string
		size *csi.CapacityRange
		want codes.Code
	}{
		{"larger", there, &csi.CapacityRange{RequiredBytes: 2 * mib}, codes.OK},
		{"the same again", there, &csi.CapacityRange{RequiredBytes: 2 * mib}, codes.OK},
		{"less", there, &csi.CapacityRange{RequiredBytes: mib}, codes.OK},
		{"at most less", there, &csi.CapacityRange{LimitBytes: mib}, codes.OutOfRange},
		{"more than there is", there, &csi.CapacityRange{RequiredBytes: 1 << 59}, codes.OutOfRange},
		{"more than anything has", there, &csi.CapacityRange{RequiredBytes: 1 << 61}, codes.OutOfRange},
		{"negative", there, &csi.CapacityRange{RequiredBytes: -1}, codes.InvalidArgument},
		{"no size", there, nil, codes.InvalidArgument},
		{"no ID", "", &csi.CapacityRange{RequiredBytes: 2 * mib}, codes.InvalidArgument},
		{"nobody's", "none", &csi.CapacityRange{RequiredBytes: mib}, codes.NotFound},
		{
			"a path of the host", "host-0123456789ab-v", &csi.CapacityRange{RequiredBytes: mib},
			codes.InvalidArgument,
		},
		{"of another node", "0123456789ab-v", &csi.CapacityRange{RequiredBytes: mib}, codes.NotFound},
		{
			"in a pool that is not open", closedPool + "-v", &csi.CapacityRange{RequiredBytes: mib},
			codes.Unavailable,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := c.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
				VolumeId: tt.id, CapacityRange: tt.size,
			})
			wantCode(t, err, tt.want)
			if err == nil && (resp.GetCapacityBytes() != 2*mib || resp.GetNodeExpansionRequired()) {
				t.Errorf("the answer is %v, want 2 MiB and nothing left for the node", resp)
			}
		})
	}
}

// The filesystem of an image, and a device that a pod has, can grow only on the node.
func TestImageIsCompletedByTheNode(t *testing.T) {
	c := newController(t, "p")
	for name, request := range map[string]*csi.CreateVolumeRequest{
		"image": with(t, "image", formatted("ext4")),
		"block": with(t, "block", block()),
	} {
		v := c.create(t, request)
		size := 2 * v.GetCapacityBytes()
		resp, err := c.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
			VolumeId: v.GetVolumeId(), CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		})
		if err != nil || resp.GetCapacityBytes() != size || !resp.GetNodeExpansionRequired() {
			t.Errorf("%s: the answer is %v, %v, want %d bytes, and the node's part", name, resp, err, size)
		}
		id, err := volume.ParseID(v.GetVolumeId())
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.pools[0].AnyData(id)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(); err != nil || info.Size() != size {
			t.Errorf("%s: its file has %v, %v, want %d bytes", name, info, err, size)
		}
		f.Close()
	}
}
