package pool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// trashOf opens a pool that retains what is deleted, with a deleted volume of a mebibyte in it.
func trashOf(t *testing.T, p *Pool) (_ *Pool, v volume.Volume, entry string) {
	t.Helper()
	closePool(t, p)
	p.opts.TrashRetention = time.Hour
	p = openPool(t, p.opts)
	v = create(t, p, "v", mib)
	writeTree(t, dataPath(p, v.ID), map[string]string{"file": "precious"})
	remove(t, p, v.ID)
	deleted := entries(t, filepath.Join(p.opts.Path, layout.TrashDir))
	if len(deleted) != 1 {
		t.Fatalf("trash/ has %q", deleted)
	}
	return p, v, deleted[0]
}

func undeleted(t *testing.T, p *Pool, entry string) volume.Volume {
	t.Helper()
	v, err := p.Undelete(t.Context(), entry)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantVolume checks that a volume is there with its content and size.
func wantVolume(t *testing.T, p *Pool, want volume.Volume) {
	t.Helper()
	got, err := p.Get(want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.CapacityBytes != want.CapacityBytes || got.QuotaID != want.QuotaID ||
		got.EnforcesSize() != p.backend.Enforces() {
		t.Errorf("the volume is %+v, was %+v", got.Volume, want)
	}
	if tree := listTree(t, dataPath(p, want.ID)); tree["file"] != "precious" {
		t.Errorf("the volume has %q", tree)
	}
	wantLedger(t, p, mib, 0)
}

func TestUndeletedVolumeIsAsItWas(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p, v, entry := trashOf(t, poolOn(t, fstype))
			wantLedger(t, p, 0, mib)
			undeleted(t, p, entry)
			wantVolume(t, p, v)
			wantEntries(t, p, layout.TrashDir)
			undeleted(t, p, entry) // again: it is there
			p = restart(t, p)
			wantVolume(t, p, v)
			remove(t, p, v.ID) // and can be deleted, and taken back from an earlier process' trash
			p = restart(t, p)
			undeleted(t, p, entries(t, filepath.Join(p.opts.Path, layout.TrashDir))[0])
			wantVolume(t, p, v)
		})
	}
}

func TestUndeleteOverwritesNothing(t *testing.T) {
	p, v, entry := trashOf(t, newPool(t))
	create(t, p, "v", 2*mib)
	if _, err := p.Undelete(t.Context(), entry); !errors.Is(err, volume.ErrIncompatible) {
		t.Errorf("got %v, want ErrIncompatible", err)
	}
	if got, err := p.Get(v.ID); err != nil || got.CapacityBytes != 2*mib {
		t.Errorf("the new volume is %+v, %v", got, err)
	}
	// It is still in the trash, and comes back when there is room for it.
	remove(t, p, v.ID)
	undeleted(t, p, entry)
	if got, err := p.Get(v.ID); err != nil || got.CapacityBytes != mib {
		t.Errorf("the volume is %+v, %v", got, err)
	}
}

func TestUndeleteRefusesWhatIsNotWhole(t *testing.T) {
	for _, tc := range []struct {
		title string
		spoil func(t *testing.T, path string)
		want  error
	}{
		{"its purge has begun", func(t *testing.T, path string) {
			t.Helper()
			if err := unix.Chmod(path, unix.S_ISUID|unix.S_ISGID|unix.S_ISVTX); err != nil {
				t.Fatal(err)
			}
		}, volume.ErrPrecondition},
		{"its record is damaged", func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(path, record.VolumeFile), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, volume.ErrCorrupt},
		{"its data is missing", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Rename(filepath.Join(path, "data"), filepath.Join(path, "away")); err != nil {
				t.Fatal(err)
			}
		}, volume.ErrCorrupt},
	} {
		t.Run(tc.title, func(t *testing.T) {
			p, v, entry := trashOf(t, newPool(t))
			path := filepath.Join(p.opts.Path, layout.TrashDir, entry)
			tc.spoil(t, path)
			if _, err := p.Undelete(t.Context(), entry); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if _, err := p.Get(v.ID); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("the volume is there: %v", err)
			}
			wantLedger(t, p, 0, mib)
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestUndeleteRefusesWhatIsNoEntryOfAVolume(t *testing.T) {
	p, _, entry := trashOf(t, newPool(t))
	for name, want := range map[string]error{
		"":                  volume.ErrInvalid,
		"..":                volume.ErrInvalid,
		"../volumes/v":      volume.ErrInvalid,
		"v":                 volume.ErrInvalid,
		"s-v.12345678":      volume.ErrInvalid,
		"v.12345678":        volume.ErrNotFound,
		entry + "/data":     volume.ErrInvalid,
		"other.12345678":    volume.ErrNotFound,
		"\x00.12345678":     volume.ErrInvalid,
		"a b.12345678":      volume.ErrInvalid,
		entry + ".12345678": volume.ErrNotFound,
	} {
		if _, err := p.Undelete(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", name, err, want)
		}
	}
}

// A volume that is not deleted keeps its quota ID as well while quotas are off.
func TestUndeletedVolumeKeepsItsQuotaIDWhileQuotasAreOff(t *testing.T) {
	for _, fstype := range disks.QuotaTypes() {
		t.Run(fstype, func(t *testing.T) {
			p, v, entry := trashOf(t, poolOn(t, fstype))
			if v.QuotaID == 0 {
				t.Fatal("the volume has no quota ID")
			}
			p.opts.IgnoreQuota = true
			p = restart(t, p)
			undeleted(t, p, entry)
			if got, err := p.Get(v.ID); err != nil || got.QuotaID != v.QuotaID || got.EnforcesSize() {
				t.Errorf("without quotas the volume is %+v, %v; its quota ID was %d", got, err, v.QuotaID)
			}
			if _, err := p.Expand(t.Context(), v.ID, volume.SizeRange{Required: 2 * mib}); err != nil {
				t.Fatal(err)
			}
			p.opts.IgnoreQuota = false
			p = restart(t, p)
			if got, err := p.Get(v.ID); err != nil || got.QuotaID != v.QuotaID || !got.EnforcesSize() {
				t.Errorf("with quotas again the volume is %+v, %v; its quota ID was %d", got, err, v.QuotaID)
			}
		})
	}
}
