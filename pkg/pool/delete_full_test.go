package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// brimful returns disks that tests fill to the last block and the last inode. One ext4 has few
// inodes, so that both run out. Another one has small blocks, so that trash/ soon has to grow.
func brimful() []fullDisk {
	all := []fullDisk{
		{"ext4", disks.Ext4, 80 * mib, []string{"-m", "0", "-N", "1024"}},
		{"ext4 with small blocks", disks.Ext4, 80 * mib, []string{"-m", "0", "-b", "1024"}},
		{"xfs", disks.XFS, 300 * mib, nil},
		{"xfs without reflinks", disks.XFS, 300 * mib, []string{"-m", "reflink=0"}},
		{"btrfs", disks.Btrfs, 160 * mib, nil},
		{"mixed btrfs", disks.Btrfs, 128 * mib, []string{"--mixed"}},
	}
	return slices.DeleteFunc(all,
		func(d fullDisk) bool { return !slices.Contains(disks.Types(), d.fstype) })
}

func onEachBrimful(t *testing.T, test func(t *testing.T, disk disks.Disk)) {
	t.Helper()
	for _, d := range brimful() {
		t.Run(d.name,
			func(t *testing.T) { test(t, disks.New(t, d.fstype, d.size, disks.MkfsArgs(d.mkfs...))) })
	}
}

// oversold returns the options of a pool whose ledger refuses nothing, so that the disk does.
func oversold(disk disks.Disk) Options {
	return Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), Overcommit: 1e9}
}

// wantBrimful checks that not even a directory can be made.
func wantBrimful(t *testing.T, disk disks.Disk) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(disk.Dir, "one-more"), 0o700); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("one more directory: %v, want ENOSPC", err)
	}
}

// On a full disk everything can be deleted at the first call.
func TestEverythingCanBeDeletedFromAFullDisk(t *testing.T) {
	onEachBrimful(t, func(t *testing.T, disk disks.Disk) { //nolint:thelper // it is the test
		p := openPool(t, oversold(disk))
		bystander := create(t, p, "bystander", mib)
		writeTree(t, dataPath(p, bystander.ID), someTree)
		volumes, snapshots := one(t, p)
		disk.Fill(t)
		wantBrimful(t, disk)
		// Volumes first, because the purge of a snapshot locks its volume for a moment.
		for _, id := range volumes {
			removeTwice(t, id, p.Delete)
		}
		for _, id := range snapshots {
			removeTwice(t, id, p.DeleteSnapshot)
		}
		if got := p.List("", 100); len(got) != 1 || got[0].ID != bystander.ID {
			t.Errorf("the list is %v, want only the bystander", got)
		}
		if got := p.ListSnapshots("", 100); len(got) > 0 {
			t.Errorf("the list of snapshots is %v, want none", got)
		}
		waitPurged(t, p)
		waitEntries(t, p, layout.VolumesDir, "bystander")
		waitEntries(t, p, layout.SnapshotsDir)
		wantLedger(t, p, mib, 0)
		wantTree(t, dataPath(p, bystander.ID), someTree)
		wantMadeAnew(t, p, disk, "directory")
	})
}

// wantMadeAnew makes room on the disk and creates a volume with the old name. The new volume must
// have nothing of the old one.
func wantMadeAnew(t *testing.T, p *Pool, disk disks.Disk, name string) {
	t.Helper()
	disk.Unfill(t)
	made := create(t, p, name, mib)
	if got := entries(t, dataPath(p, made.ID)); len(got) > 0 {
		t.Errorf("the new volume has %q", got)
	}
}

// one creates a volume of each kind, with content, and a snapshot of it.
func one(t *testing.T, p *Pool) (volumes []volume.ID, snapshots []volume.SnapshotID) {
	t.Helper()
	for _, c := range copiedVolumes() {
		req := request(t, strings.ReplaceAll(c.name, " ", "-"), 16*mib)
		req.Spec = c.spec
		v, err := p.Create(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		c.fill(t, dataPath(p, v.ID))
		volumes = append(volumes, v.ID)
		snapshots = append(snapshots, snapshot(t, p, req.Name.Dir(), v.ID).ID)
	}
	return volumes, snapshots
}

// removeTwice deletes twice. Both calls must succeed.
func removeTwice[ID fmt.Stringer](t *testing.T, id ID, remove func(context.Context, ID) error) {
	t.Helper()
	for range 2 {
		if err := remove(t.Context(), id); err != nil {
			t.Errorf("delete %s: %v", id, err)
		}
	}
}

// waitEntries waits until a directory of the pool has exactly these entries.
func waitEntries(t *testing.T, p *Pool, dirName string, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s/ has nothing but %q", dirName, want), func() bool {
		return slices.Equal(entries(t, filepath.Join(p.opts.Path, dirName)), want)
	})
}

// A trash/ with a retention would have to grow for more entries. On a full disk it still refuses no
// deletion.
func TestTrashOfAFullDiskRefusesNothing(t *testing.T) {
	onEachBrimful(t, func(t *testing.T, disk disks.Disk) { //nolint:thelper // it is the test
		opts := oversold(disk)
		opts.TrashRetention = time.Hour
		p := openPool(t, opts)
		var made []volume.ID
		for i := range 50 {
			made = append(made, create(t, p, fmt.Sprintf("%060d", i), 1).ID)
		}
		disk.Fill(t)
		for _, id := range made {
			removeTwice(t, id, p.Delete)
		}
		if got := p.List("", 100); len(got) > 0 {
			t.Errorf("the list is %v, want none", got)
		}
	})
}

// The mark for a purge that has begun needs no room either. (A full btrfs refuses every rename, so
// the second delete finds the disk full.)
func TestWhatTheTrashKeepsGoesWhenABtrfsIsFull(t *testing.T) {
	for _, d := range brimful() {
		if d.fstype != disks.Btrfs {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			disk := disks.New(t, d.fstype, d.size, disks.MkfsArgs(d.mkfs...))
			opts := oversold(disk)
			opts.TrashRetention = time.Hour
			p := openPool(t, opts)
			kept, v := create(t, p, "kept", mib), create(t, p, "v", mib)
			writeTree(t, dataPath(p, kept.ID), someTree)
			remove(t, p, kept.ID)
			disk.Fill(t)
			wantBrimful(t, disk)
			remove(t, p, v.ID)
			waitPurged(t, p)
			waitEntries(t, p, layout.VolumesDir)
		})
	}
}

// shown is a volume and its snapshot, deleted from a full disk, that two mounts still show.
type shown struct {
	volume   volume.ID
	snapshot volume.SnapshotID
	points   []string
}

func deleteShown(t *testing.T, p *Pool, disk disks.Disk) shown {
	t.Helper()
	v := create(t, p, "v", mib)
	writeTree(t, dataPath(p, v.ID), someTree)
	s := shown{volume: v.ID, snapshot: snapshot(t, p, "s", v.ID).ID}
	for _, data := range []string{dataPath(p, s.volume), snapshotPath(p, s.snapshot)} {
		point := t.TempDir()
		if err := unix.Mount(data, point, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
		s.points = append(s.points, point)
	}
	disk.Fill(t)
	removeTwice(t, s.volume, p.Delete)
	removeTwice(t, s.snapshot, p.DeleteSnapshot)
	return s
}

// wantDeleted checks that the pool has neither the volume nor the snapshot, and takes the remaining
// data for no other volume.
func (s shown) wantDeleted(t *testing.T, p *Pool) {
	t.Helper()
	if _, err := p.Get(s.volume); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("get: %v, want ErrNotFound", err)
	}
	if _, err := openData(p, s.volume); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("data: %v, want ErrNotFound", err)
	}
	if _, err := p.GetSnapshot(s.snapshot); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("get snapshot: %v, want ErrNotFound", err)
	}
	if v, s := p.List("", 10), p.ListSnapshots("", 10); len(v) != 1 || len(s) > 0 {
		t.Errorf("the lists are %v and %v, want only the bystander", v, s)
	}
	removeTwice(t, s.volume, p.Delete)
	removeTwice(t, s.snapshot, p.DeleteSnapshot)
	if v, err := p.Create(t.Context(), request(t, "v", mib)); !errors.Is(err, volume.ErrBusy) &&
		!isNoSpace(err) {
		t.Errorf("create: %v, %v, want ErrBusy, or no space where the old one is in trash/", v, err)
	}
}

// Data that a mount shows is not purged. For every call, also in the next process, the volume is
// deleted all the same.
func TestVolumeDeletedFromAFullDiskIsNothingToAnybodyUntilItIsPurged(t *testing.T) {
	onEachBrimful(t, func(t *testing.T, disk disks.Disk) { //nolint:thelper // it is the test
		p := openPool(t, oversold(disk))
		create(t, p, "bystander", mib)
		s := deleteShown(t, p, disk)
		for range 2 {
			eventually(t, "the purges stop at the mounts",
				func() bool { return status(t, p).PurgesFailing == 2 })
			s.wantDeleted(t, p)
			for _, point := range s.points {
				wantTree(t, point, someTree)
			}
			p = restart(t, p)
		}
		for _, point := range s.points {
			if err := unix.Unmount(point, 0); err != nil {
				t.Fatal(err)
			}
		}
		p = restart(t, p)
		waitPurged(t, p)
		waitEntries(t, p, layout.VolumesDir, "bystander")
		waitEntries(t, p, layout.SnapshotsDir)
		wantLedger(t, p, mib, 0)
		wantMadeAnew(t, p, disk, "v")
	})
}

// While the old volume is purged in place, its name cannot be given to a new one, even if the disk
// has room.
func TestNameOfAVolumeDeletedInPlaceIsBusy(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	s := snapshot(t, p, "s", v.ID)
	p.trash.Stop()
	for _, path := range []string{
		layout.VolumesDir + "/" + v.ID.Dir(), layout.SnapshotsDir + "/" + s.ID.Dir(),
	} {
		if err := unix.Chmod(filepath.Join(p.opts.Path, path), 0o7000); err != nil {
			t.Fatal(err)
		}
	}
	p = restart(t, p)
	p.trash.Stop()
	w := create(t, p, "w", mib)
	if _, err := p.Create(t.Context(), request(t, "v", mib)); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("create: %v, want ErrBusy", err)
	}
	if _, err := p.CreateFrom(
		t.Context(),
		from(t, "v", volume.FromVolume(w.ID), mib),
		only{p},
	); !errors.Is(
		err, volume.ErrBusy,
	) {
		t.Errorf("clone: %v, want ErrBusy", err)
	}
	if _, err := p.CreateSnapshot(
		t.Context(),
		snapshotRequest(t, "s", w.ID),
	); !errors.Is(
		err, volume.ErrBusy,
	) {
		t.Errorf("snapshot: %v, want ErrBusy", err)
	}
	wantLedger(t, p, mib, mib+s.HeldBytes)
	p = restart(t, p)
	waitPurged(t, p)
	create(t, p, "v", mib)
	snapshot(t, p, "s", w.ID)
}

// Only mode 07000 deletes a volume. A chmod(1) of the pool loses none.
func TestNoOtherModeDeletesAVolume(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	for _, mode := range []uint32{0, 0o700, 0o777, 0o1777, 0o2770, 0o4755, 0o6000, 0o7777} {
		if err := unix.Chmod(filepath.Join(p.opts.Path, layout.VolumesDir, "v"), mode); err != nil {
			t.Fatal(err)
		}
		p = restart(t, p)
		if _, err := p.Get(v.ID); err != nil {
			t.Errorf("with mode %#o: %v", mode, err)
		}
	}
}

// A copy of the disk's image has what a power cut would leave.
func TestDeleteFromAFullDiskSurvivesAPowerCut(t *testing.T) {
	onEachBrimful(t, func(t *testing.T, disk disks.Disk) { //nolint:thelper // it is the test
		p := openPool(t, oversold(disk))
		bystander := create(t, p, "bystander", mib)
		writeTree(t, dataPath(p, bystander.ID), someTree)
		v := create(t, p, "v", mib)
		writeTree(t, dataPath(p, v.ID), someTree)
		s := snapshot(t, p, "s", v.ID)
		disk.Fill(t)
		p.trash.Stop()
		removeTwice(t, s.ID, p.DeleteSnapshot)
		removeTwice(t, v.ID, p.Delete)
		p = afterPowerCut(t, p, disk)
		if v, s := p.List("", 10), p.ListSnapshots("", 10); len(v) != 1 || v[0].ID != bystander.ID ||
			len(s) > 0 {
			t.Errorf("the lists are %v and %v, want only the bystander", v, s)
		}
		waitPurged(t, p)
		waitEntries(t, p, layout.VolumesDir, "bystander")
		waitEntries(t, p, layout.SnapshotsDir)
		wantTree(t, dataPath(p, bystander.ID), someTree)
	})
}

// A driver that was killed while it created a volume starts on the full disk and removes the
// unfinished volume.
func TestPoolOnAFullDiskOpensAndRemovesWhatIsUnfinished(t *testing.T) {
	onEachBrimful(t, func(t *testing.T, disk disks.Disk) { //nolint:thelper // it is the test
		p := openPool(t, oversold(disk))
		v := create(t, p, "v", mib)
		closePool(t, p)
		writeTree(t, filepath.Join(p.opts.Path, layout.TmpDir),
			map[string]string{"w.123/data/file": "half", "s-s.123/data/file": "half"})
		disk.Fill(t)
		wantBrimful(t, disk)
		p = openPool(t, p.opts)
		waitPurged(t, p)
		if _, err := p.Get(v.ID); err != nil {
			t.Error(err)
		}
	})
}
