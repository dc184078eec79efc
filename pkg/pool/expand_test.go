package pool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func expand(t *testing.T, p *Pool, id volume.ID, required, limit int64) (int64, error) {
	t.Helper()
	v, err := p.Expand(t.Context(), id, volume.SizeRange{Required: required, Limit: limit})
	return v.CapacityBytes, err
}

func TestExpandGivesTheSizeAndKeepsIt(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	writeTree(t, dataPath(p, v.ID), map[string]string{"file": "precious"})
	for range 2 { // the second call is a retry
		if got, err := expand(t, p, v.ID, 3*mib, 0); got != 3*mib || err != nil {
			t.Fatalf("expanded to %d, %v", got, err)
		}
	}
	wantLedger(t, p, 3*mib, 0)
	wantEntries(t, p, filepath.Join(layout.VolumesDir, v.ID.Dir()), "data", "volume.json")
	p = restart(t, p)
	wantLedger(t, p, 3*mib, 0)
	if got, err := p.Get(
		v.ID,
	); err != nil || got.CapacityBytes != 3*mib || !got.Created.Equal(v.Created) ||
		got.Spec != v.Spec {
		t.Errorf("after a restart the volume is %+v, %v", got, err)
	}
	if got := listTree(t, dataPath(p, v.ID)); got["file"] != "precious" {
		t.Errorf("the volume has %q", got)
	}
	remove(t, p, v.ID)
	waitPurged(t, p)
	wantLedger(t, p, 0, 0)
}

func TestExpandNeverShrinks(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", 2*mib)
	tests := []struct {
		name            string
		required, limit int64
		want            error
	}{
		{name: "less", required: mib},
		{name: "nothing said"},
		{name: "exactly less", required: mib, limit: mib, want: volume.ErrOutOfRange},
		{name: "at most less", limit: mib, want: volume.ErrOutOfRange},
		{name: "as it is", required: 2 * mib, limit: 2 * mib},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := expand(t, p, v.ID, tt.required, tt.limit); !errors.Is(err, tt.want) ||
				err == nil && got != 2*mib {
				t.Errorf("expanded to %d, %v, want 2 MiB, %v", got, err, tt.want)
			}
			wantLedger(t, p, 2*mib, 0)
		})
	}
}

func TestExpandBeyondTheRoomLeavesTheVolumeAsItWas(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	if got, err := expand(t, p, v.ID, 1<<60, 0); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("expanded to %d, %v, want ErrNoSpace", got, err)
	}
	wantLedger(t, p, mib, 0)
	if got, err := p.Get(v.ID); err != nil || got.CapacityBytes != mib {
		t.Errorf("the volume is %+v, %v", got, err)
	}
}

// TestExpandOnAFullDiskLeavesTheVolumeAsItWas frees one more block each time, so that the disk is
// full at different steps.
func TestExpandOnAFullDiskLeavesTheVolumeAsItWas(t *testing.T) {
	size := map[string]int64{disks.Ext4: 16 * mib, disks.XFS: 300 * mib, disks.Btrfs: 128 * mib}
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, size[fstype], unreserved(fstype)...)
			p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), Overcommit: 1000})
			v := create(t, p, "v", mib)
			filler := fill(t, filepath.Join(disk.Dir, "filler"))
			capacity, refused, block := int64(mib), 0, blockSize(t, disk)
			for range 16 {
				switch got, err := expand(t, p, v.ID, capacity+mib, 0); {
				case err == nil:
					capacity = got
				case isNoSpace(err):
					// by the ledger if a record takes one block, as on this ext4
					refused++
				default:
					t.Errorf("expand: %v, want ErrNoSpace or ENOSPC", err)
				}
				wantLedger(t, p, capacity, 0)
				wantEntries(t, p, filepath.Join(layout.VolumesDir, v.ID.Dir()), backend.Data, record.VolumeFile)
				giveBack(t, filler, block)
			}
			if refused == 0 {
				t.Error("the disk refused no expansion")
			}
			p = restart(t, p)
			if got, err := p.Get(v.ID); err != nil || got.CapacityBytes != capacity {
				t.Errorf("the volume is %+v, %v, want %d bytes", got, err, capacity)
			}
		})
	}
}

func TestExpandOfWhatCannotGrow(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	gone := create(t, p, "gone", mib)
	remove(t, p, gone.ID)
	if _, err := expand(t, p, gone.ID, 2*mib, 0); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a deleted volume: %v, want ErrNotFound", err)
	}
	unlock, err := p.volumes.catalog.Lock(v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := expand(t, p, v.ID, 2*mib, 0); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("a volume with a call under way: %v, want ErrBusy", err)
	}
	unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Expand(
		ctx,
		v.ID,
		volume.SizeRange{Required: 2 * mib},
	); !errors.Is(
		err, context.Canceled,
	) {
		t.Errorf("a cancelled call: %v", err)
	}
	writeTree(t, filepath.Join(p.opts.Path, layout.VolumesDir, v.ID.Dir()),
		map[string]string{"volume.json": "{"})
	p = restart(t, p)
	if _, err := expand(t, p, v.ID, 2*mib, 0); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("a damaged volume: %v, want ErrCorrupt", err)
	}
}

// A volume that was created while sizes were not enforced is logged and counted.
func TestVolumesThatAreNotHeldToTheirSizesAreCounted(t *testing.T) {
	disk := disks.New(t, disks.Btrfs, 0)
	opts := Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), IgnoreQuota: true}
	p := openPool(t, opts)
	v := create(t, p, "v", mib)
	if got := status(t, p).Unenforced; got != 1 || p.Filesystem().EnforcesSizes {
		t.Errorf("%d volumes are unenforced, want the one", got)
	}
	closePool(t, p)
	opts.IgnoreQuota, opts.RequireQuota = false, true
	p = openPool(t, opts)
	create(t, p, "w", mib)
	if got := status(t, p).Unenforced; got != 1 || !p.Filesystem().EnforcesSizes {
		t.Errorf("%d volumes are unenforced, want only the old one", got)
	}
	if _, err := expand(t, p, v.ID, 2*mib, 0); err != nil {
		t.Error(err)
	}
	if got := status(t, p).Unenforced; got != 1 {
		t.Errorf("after an expansion %d volumes are unenforced, want 1", got)
	}
	remove(t, p, v.ID)
	if got := status(t, p).Unenforced; got != 0 {
		t.Errorf("%d volumes are unenforced, want none", got)
	}
}

// After a crash, an entry of the trash may have a quota ID that was released before the crash and
// belongs to another volume now.
func TestQuotaOfThePurgedIsNotTakenFromTheLiving(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	v := create(t, p, "v", 4*mib)
	trash := filepath.Join(p.opts.Path, layout.TrashDir, "gone.00000001")
	if err := os.Mkdir(trash, 0o700); err != nil {
		t.Fatal(err)
	}
	old := v
	old.Name, _ = volume.ParseName("gone")
	encoded, err := record.EncodeVolume(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(trash, record.VolumeFile), encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	p = restart(t, p)
	waitPurged(t, p)
	err = os.WriteFile(filepath.Join(dataPath(p, v.ID), "file"), make([]byte, 5*mib), 0o600)
	if !errors.Is(err, unix.EDQUOT) {
		t.Errorf("5 MiB in a volume of 4 MiB: %v, want EDQUOT", err)
	}
}

// After an operator has copied a volume with its record, two records have the same quota ID. The
// filesystem has it for one of the two volumes. The other volume must not change that limit, and
// can be deleted.
func TestVolumeWithTheQuotaOfAnotherOneLeavesItAlone(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	first := create(t, p, "first", 4*mib)
	second := create(t, p, "second", 4*mib)
	closePool(t, p)
	path := filepath.Join(p.opts.Path, layout.VolumesDir, "second", record.VolumeFile)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	quotaIDs := strings.NewReplacer(strconv.FormatUint(uint64(second.QuotaID), 10),
		strconv.FormatUint(uint64(first.QuotaID), 10))
	if err := os.WriteFile(path, []byte(quotaIDs.Replace(string(content))), 0o600); err != nil {
		t.Fatal(err)
	}
	p = openPool(t, p.opts)
	with, without := mustEntry(t, p, first.ID), mustEntry(t, p, second.ID)
	if !with.IsEnforced { // the start may find either of them first
		with, without = without, with
	}
	if !with.IsEnforced || without.IsEnforced {
		t.Fatal("the sizes of both or of none are enforced, want one")
	}
	want := []Unhealthy{{p.volumes.unpack(without).ID, []volume.Fault{volume.FaultSizeNotEnforced}}}
	if got := p.Unhealthy("", 9); !reflect.DeepEqual(got, want) {
		t.Errorf("unhealthy are %v, want %v", got, want)
	}
	if _, err := expand(t, p, p.volumes.unpack(without).ID, 64*mib, 0); err != nil {
		t.Fatal(err)
	}
	if got := usage(t, p, p.volumes.unpack(with).ID).TotalBytes; got != 4*mib {
		t.Errorf("the volume that has the quota is limited to %d bytes by now, want %d", got, 4*mib)
	}
	remove(t, p, p.volumes.unpack(without).ID)
	waitPurged(t, p)
	wantLedger(t, p, 4*mib, 0)
}
