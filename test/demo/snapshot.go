package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

const mistake = "overwritten by mistake"

// snapshotting is a snapshot, a mistake, and a volume from before the mistake.
func (c *claim) snapshotting() []action {
	restored := &claim{scene: c.scene, pv: "pvc-restored", kind: c.kind}
	var snapshot string
	return []action{
		{"CreateSnapshot, while the pods run", func(ctx context.Context) ([]string, error) {
			resp, err := c.scene.driver.Controller.CreateSnapshot(ctx,
				&csi.CreateSnapshotRequest{Name: "snapshot-monday", SourceVolumeId: c.id})
			snapshot = resp.GetSnapshot().GetSnapshotId()
			return []string{"snapshot " + snapshot}, err
		}},
		{"pod A overwrites hello.txt", c.write(podA, mistake)},
		{
			"CreateVolume of 2 GiB from the snapshot",
			func(ctx context.Context) ([]string, error) { return restored.restore(ctx, snapshot) },
		},
		{"the new volume has what the snapshot has", restored.find(words)},
		{"and pod A what it wrote since", c.read(podA, mistake)},
		{"DeleteSnapshot, DeleteVolume", func(ctx context.Context) ([]string, error) {
			if _, err := c.scene.driver.Controller.DeleteSnapshot(
				ctx,
				&csi.DeleteSnapshotRequest{SnapshotId: snapshot},
			); err != nil {
				return nil, err
			}
			return restored.remove(ctx)
		}},
		{"pod A writes hello.txt once more", c.write(podA, words)},
	}
}

func (c *claim) restore(ctx context.Context, snapshot string) ([]string, error) {
	resp, err := c.scene.driver.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               c.pv,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 2 * giB},
		VolumeCapabilities: []*csi.VolumeCapability{accessMode()},
		Parameters:         map[string]string{"type": c.kind},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
		}},
	})
	c.id = resp.GetVolume().GetVolumeId()
	return []string{fmt.Sprintf("volume %s, %d bytes", c.id, resp.GetVolume().GetCapacityBytes())}, err
}

// find reads what is in the volume on disk.
func (c *claim) find(want string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) {
		got, err := os.ReadFile(filepath.Join(c.data(), "hello.txt"))
		if err == nil && string(got) != want {
			err = fmt.Errorf("the volume has %q, want %q", got, want)
		}
		return []string{fmt.Sprintf("%q", got)}, err
	}
}
