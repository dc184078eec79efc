package backend

import (
	"errors"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func anyIsFree(volume.QuotaID) (bool, error) { return true, nil }

// Who knows one quota ID must not know the next one. A pod may charge its files to any project ID.
func TestQuotaIDsAreNotConsecutive(t *testing.T) {
	const first, count, near = 1 << 30, 1 << 30, 1000
	ids := NewQuotaIDs(first, count)
	last := volume.QuotaID(first)
	for range 100 {
		id, err := ids.Allocate(anyIsFree)
		if err != nil || !ids.Contains(id) {
			t.Fatalf("allocated %d, %v, want one from %d on", id, err, first)
		}
		// Random IDs are so near once in half a million draws.
		if id < last+near && last < id+near {
			t.Errorf("%d is allocated after %d", id, last)
		}
		last = id
	}
}

func TestQuotaIDIsAllocatedOnce(t *testing.T) {
	const first, count = 8, 4
	ids := NewQuotaIDs(first, count)
	if !ids.Reserve(first) || ids.Reserve(first) || ids.Reserve(first-1) || ids.Reserve(first+count) {
		t.Error("an ID of the range is reserved once, and no other")
	}
	foreign := func(id volume.QuotaID) (bool, error) { return id != first+1, nil }
	got := map[volume.QuotaID]bool{}
	for range count - 2 {
		id, err := ids.Allocate(foreign)
		if err != nil {
			t.Fatal(err)
		}
		got[id] = true
	}
	if len(got) != count-2 || got[first] || got[first+1] {
		t.Errorf("allocated are %v, want %d and %d", got, first+2, first+3)
	}
	if id, err := ids.Allocate(foreign); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("allocated %d, %v, want ErrNoSpace", id, err)
	}
	ids.Free(first + 2)
	if id, err := ids.Allocate(foreign); id != first+2 || err != nil {
		t.Errorf("allocated %d, %v, want the freed %d", id, err, first+2)
	}
}

func TestQuotaIDOfAFilesystemThatFailsIsNotTaken(t *testing.T) {
	ids := NewQuotaIDs(1, 1)
	failed := errors.New("failed")
	if _, err := ids.Allocate(func(volume.QuotaID) (bool, error) { return true, failed }); !errors.Is(
		err, failed) {
		t.Errorf("%v, want the filesystem's error", err)
	}
	if id, err := ids.Allocate(anyIsFree); id != 1 || err != nil {
		t.Errorf("allocated %d, %v, want 1", id, err)
	}
}
