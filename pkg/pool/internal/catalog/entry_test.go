package catalog_test

import (
	"errors"
	"testing"
	"time"
	"unsafe"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const poolID volume.PoolID = "0123456789ab"

var created = time.Date(2026, 11, 28, 12, 0, 0, 1, time.UTC)

func parseName(tb testing.TB, s string) volume.Name {
	tb.Helper()
	parsed, err := volume.ParseName(s)
	if err != nil {
		tb.Fatal(err)
	}
	return parsed
}

// A pool may have hundreds of thousands of entries.
func TestEntryIsSmall(t *testing.T) {
	const most = 112
	if got := unsafe.Sizeof(catalog.Entry{}); got > most {
		t.Errorf("an entry takes %d bytes of memory, at most %d are allowed", got, most)
	}
}

func TestVolumeOfAnEntryIsTheVolume(t *testing.T) {
	plain, hashed := parseName(t, "pvc-1"), parseName(t, "a name/that is no file name")
	pod := volume.Owner{PodUID: "uid", Pod: "pod"}
	for _, v := range []volume.Volume{
		{Name: plain, CapacityBytes: 1 << 20},
		{
			Name: hashed, CapacityBytes: 1 << 20, SharedBytes: 4096, Created: created, QuotaID: 7,
			Spec:            volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
			Source:          volume.FromVolume(volume.NewID(poolID, plain)),
			FilesystemBytes: 1 << 19,
		},
		{Name: plain, Owner: pod, Formatting: true},
	} {
		v.ID = volume.NewID(poolID, v.Name)
		e := catalog.NewVolume(v)
		if got := e.Volume(poolID); got != v {
			t.Errorf("got %+v, want %+v", got, v)
		}
		if e.PromisedBytes != v.PromisedBytes() || e.ParentID != v.Owner.PodUID || e.Damaged() != nil {
			t.Errorf("the entry of %+v is %+v", v, e)
		}
	}
}

func TestOwnerOfAVolumeWithoutAPodIsNotInMemory(t *testing.T) {
	v := volume.Volume{Name: parseName(t, "v"), Owner: volume.Owner{Claim: "claim"}}
	v.ID = volume.NewID(poolID, v.Name)
	if got := catalog.NewVolume(v).Volume(poolID); got.Owner != (volume.Owner{}) {
		t.Errorf("the owner is %+v", got.Owner)
	}
}

func TestSnapshotOfAnEntryIsTheSnapshot(t *testing.T) {
	source := volume.NewID(poolID, parseName(t, "v"))
	for _, s := range []volume.Snapshot{
		{Name: parseName(t, "s"), Source: source, HeldBytes: 1 << 20},
		{
			Name: parseName(t, "S p a c e"), Source: source, SourceCreated: created, Created: created,
			RestoreBytes: 1 << 20, HeldBytes: 1 << 21, QuotaID: 7, SourceQuotaID: 8,
			FilesystemBytes: 1 << 19,
		},
	} {
		s.ID = volume.NewSnapshotID(poolID, s.Name)
		e := catalog.NewSnapshot(s)
		if got := e.Snapshot(poolID); got != s {
			t.Errorf("got %+v, want %+v", got, s)
		}
		if e.PromisedBytes != s.HeldBytes || e.ParentID != source.String() {
			t.Errorf("the entry of %+v is %+v", s, e)
		}
	}
}

func TestDamagedEntryKeepsItsNameAndQuotaID(t *testing.T) {
	why := errors.New("why")
	id := volume.NewID(poolID, parseName(t, "v"))
	e := catalog.NewDamaged(id.Dir(), why)
	e.QuotaID = 7
	if got, want := e.Volume(poolID), (volume.Volume{ID: id, QuotaID: 7}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !errors.Is(e.Damaged(), why) || e.EnforcesSize() {
		t.Errorf("damaged: %v, size enforced: %v", e.Damaged(), e.EnforcesSize())
	}
}
