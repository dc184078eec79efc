package capability

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// FuzzParse parses anything that a caller can send. It is refused as invalid, or it has a known
// mode and is read-only exactly if the mode is.
func FuzzParse(f *testing.F) {
	for mode := range csi.VolumeCapability_AccessMode_Mode_name {
		for _, c := range []*csi.VolumeCapability{
			{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
			{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{
				FsType: "xfs", MountFlags: []string{"ro", "noexec"}, VolumeMountGroup: "1000",
			}}},
			{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}},
			{},
		} {
			c.AccessMode = &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_Mode(mode)}
			wire, err := proto.Marshal(c)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(wire)
		}
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var c csi.VolumeCapability
		if proto.Unmarshal(wire, &c) != nil {
			return
		}
		a, err := Parse(&c)
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%v: %v, want ErrInvalid", &c, err)
			}
			return
		}
		mode, ok := modes[c.GetAccessMode().GetMode()]
		if !ok || a.Exclusive != mode.exclusive || a.MultiNode != mode.multiNode ||
			mode.readOnly && !a.Mount.ReadOnly() {
			t.Errorf("%v gives %+v", &c, a)
		}
	})
}
