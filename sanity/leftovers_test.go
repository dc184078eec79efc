package sanity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// wantNothingLeft checks a driver that still runs, after everything was unpublished and deleted.
func (c *configuration) wantNothingLeft(t *testing.T) {
	t.Helper()
	mounts, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, c.process.KubeletDir()+"/") {
			t.Errorf("%s is still mounted", m.Point)
		}
	}
	listed, err := c.process.Controller.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil || len(listed.GetEntries()) > 0 {
		t.Errorf("the driver still lists %v, %v", listed.GetEntries(), err)
	}
	for _, dir := range []string{"volumes", "snapshots"} {
		if left := entries(t, filepath.Join(c.pool, dir)); len(left) > 0 {
			t.Errorf("%s still has %q", dir, left)
		}
	}
	fixture.Eventually(t, "tmp/ and trash/ are empty", func() bool { return len(c.unpurged(t)) == 0 },
		func() any { return c.unpurged(t) })
}

func (c *configuration) unpurged(t *testing.T) []string {
	t.Helper()
	return append(
		entries(t, filepath.Join(c.pool, "tmp")),
		entries(t, filepath.Join(c.pool, "trash"))...)
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(found))
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}
