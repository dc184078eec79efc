package pool

import (
	"slices"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// What is in the page cache of an image is written before a copy, and the other copies wait.
func TestIOLimitsAreLiftedWhileAVolumeIsCopied(t *testing.T) {
	disks.RequireMachineRoot(t) // images need loop devices
	var events []string
	p, err := Open(t.Context(), Options{
		Name: "p", Path: t.TempDir(),
		Unlimit: func(id volume.ID) func() {
			events = append(events, "lifted "+id.Dir())
			return func() { events = append(events, "set "+id.Dir()) }
		},
	})
	fixture.Must(t, err)
	t.Cleanup(func() { fixture.Must(t, p.Close()) })
	spec := volume.Spec{
		Type: volume.DirectoryOrCreate, Backing: volume.ImageBacking, Allocation: volume.Sparse,
	}
	for name, mutable := range map[string]volume.Mutable{
		"limited": {IO: volume.IOLimits{WriteIOPS: 10}}, "free": {TrashRetention: "0s"},
	} {
		parsed, err := volume.ParseName(name)
		fixture.Must(t, err)
		v, err := p.Create(t.Context(), volume.CreateRequest{
			Name: parsed, Size: volume.SizeRange{Required: 1}, Spec: spec, Mutable: mutable,
		})
		fixture.Must(t, err)
		snapshot, err := volume.ParseName("of-" + name)
		fixture.Must(t, err)
		_, err = p.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: snapshot, Source: v.ID})
		fixture.Must(t, err)
	}
	// Once when the source is looked at, and once for the copy.
	want := []string{"lifted limited", "set limited", "lifted limited", "set limited"}
	if !slices.Equal(events, want) {
		t.Errorf("%q, want %q", events, want)
	}
}
