package driver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/adminpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// A volume is found in whichever pool has it in its trash, and answered with what a
// PersistentVolume for it needs.
func TestDeletedVolumeIsTakenBackFromThePoolThatHasIt(t *testing.T) {
	first := config.NewPool("first", filepath.Join(t.TempDir(), "first"))
	second := config.NewPool("second", filepath.Join(t.TempDir(), "second"))
	first.Default, second.TrashRetention = true, time.Hour
	s := newPools(t, first, second)
	keepOpening(t, s)
	fixture.Eventually(t, "all pools are open", func() bool { return s.notReady() == nil })
	p, err := s.ByName("second")
	fixture.Must(t, err)
	name, err := volume.ParseName("pvc-1")
	fixture.Must(t, err)
	v, err := p.Create(t.Context(), volume.CreateRequest{
		Name: name, Spec: volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
		Size:  volume.SizeRange{Required: 1 << 20},
		Owner: volume.Owner{Namespace: "shop", Claim: "books", PV: "pvc-1"},
	})
	fixture.Must(t, err)
	fixture.Must(t, p.Delete(t.Context(), v.ID))
	entries, err := os.ReadDir(filepath.Join(second.Path, "trash"))
	fixture.Must(t, err)
	entry := entries[0].Name()

	admin := &adminServer{pools: s, topology: volume.Topology("d", "node-a")}
	if _, err := admin.Undelete(t.Context(), &adminpb.UndeleteRequest{
		Pool: "first", Entry: entry,
	}); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("from the other pool: %v", err)
	}
	for round := range 2 { // the second call finds the volume, and says so
		r, err := admin.Undelete(t.Context(), &adminpb.UndeleteRequest{Entry: entry})
		fixture.Must(t, err)
		if r.GetVolumeId() != v.ID.String() || r.GetPool() != "second" ||
			r.GetCapacityBytes() != 1<<20 || r.GetNamespace() != "shop" || r.GetClaim() != "books" ||
			r.GetPersistentVolume() != "pvc-1" || r.GetTopologyKey() != "topology.d/node" ||
			r.GetTopologyValue() != "node-a" || r.GetIsBlock() || r.GetWasNotInTrash() != (round == 1) {
			t.Errorf("the answer is %v", r)
		}
	}
	if _, err := p.Get(v.ID); err != nil {
		t.Error(err)
	}
}

// A pool with a volume of the name would say that the entry is back already.
func TestThePoolWithTheEntryIsAskedFirst(t *testing.T) {
	first := config.NewPool("first", filepath.Join(t.TempDir(), "first"))
	second := config.NewPool("second", filepath.Join(t.TempDir(), "second"))
	gone := config.NewPool("gone", filepath.Join(t.TempDir(), "gone"))
	first.Default, gone.Optional = true, true
	first.TrashRetention, second.TrashRetention = time.Hour, time.Hour
	s := newPools(t, first, second, gone)
	keepOpening(t, s)
	fixture.Eventually(t, "both pools are open", func() bool { return len(s.Open()) == 2 })
	name, err := volume.ParseName("pvc-1")
	fixture.Must(t, err)
	paths := map[string]string{"first": first.Path, "second": second.Path}
	var ids []volume.ID
	for _, p := range s.Open() {
		v, err := p.Create(t.Context(), volume.CreateRequest{
			Name: name, Spec: volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
			Size: volume.SizeRange{Required: 1 << 20},
		})
		fixture.Must(t, err)
		ids = append(ids, v.ID)
	}
	admin := &adminServer{pools: s, topology: volume.Topology("d", "node-a")}
	for i, p := range s.Open() {
		fixture.Must(t, p.Delete(t.Context(), ids[i]))
		entries, err := os.ReadDir(filepath.Join(paths[p.Name()], "trash"))
		fixture.Must(t, err)
		r, err := admin.Undelete(t.Context(), &adminpb.UndeleteRequest{Entry: entries[0].Name()})
		fixture.Must(t, err)
		if r.GetVolumeId() != ids[i].String() || r.GetPool() != p.Name() {
			t.Errorf("the answer is %v, want volume %s", r, ids[i])
		}
	}
	_, err = admin.Undelete(t.Context(), &adminpb.UndeleteRequest{Entry: "other.0000000a"})
	if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "pool gone") {
		t.Errorf("while a pool is not open: %v", err)
	}
}
