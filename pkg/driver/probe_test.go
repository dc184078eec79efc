package driver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/identity"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
)

// A sidecar that waited for the missing disk could not tell the scheduler that the node has no
// room.
func TestMissingDiskIsNotReadyToKubeletAndNotStartingToSidecars(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "somebody's"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.KubeletDir = t.TempDir()
	cfg.Pools = []config.Pool{config.NewPool("a", foreign)}
	pools := newPoolSet(cfg, nodeserver.NewPublications())
	kubelet := &identity.Server{NotReady: pools.notReady}
	sidecars := &identity.Server{NotReady: pools.stillOpening}
	if probe(t, kubelet) || probe(t, sidecars) {
		t.Error("ready before any pool has been tried")
	}
	if err := pools.open(t.Context(), pools.slots[0]); err == nil {
		t.Fatal("a directory of somebody else was taken for a pool")
	}
	if probe(t, kubelet) {
		t.Error("kubelet is told that a driver without its pool is ready")
	}
	if !probe(t, sidecars) {
		t.Error("sidecars wait for a disk that may never come")
	}
}

func probe(t *testing.T, i *identity.Server) bool {
	t.Helper()
	resp, err := i.Probe(t.Context(), &csi.ProbeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetReady().GetValue()
}
