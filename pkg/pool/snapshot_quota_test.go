package pool

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/groupsync"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

var errBroken = errors.New("broken disk")

// write appends size bytes to a file, durably, and returns how many there was room for. The bytes
// do not compress.
func write(t *testing.T, path string, size int64) (written int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 256<<10)
	rand.Read(chunk) // never fails: see crypto/rand
	for written < size {
		n, err := f.Write(chunk)
		if err == nil {
			err = f.Sync()
		}
		if errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) {
			return written
		}
		if err != nil {
			t.Fatal(err)
		}
		written += int64(n)
	}
	return written
}

func usage(t *testing.T, p *Pool, id volume.ID) volume.Usage {
	t.Helper()
	v, err := p.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	data, err := v.Data()
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	u, err := v.Usage(data)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRestoredVolumeIsHeldToItsOwnSize(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	v := create(t, p, "v", 32*mib)
	write(t, filepath.Join(dataPath(p, v.ID), "file"), 8*mib)
	s := snapshot(t, p, "s", v.ID)
	restored := restore(t, p, from(t, "restored", volume.FromSnapshot(s.ID), 64*mib), only{p})
	cloned := restore(t, p, from(t, "cloned", volume.FromVolume(v.ID), 48*mib), only{p})
	for _, c := range []volume.Volume{restored, cloned} {
		if got := write(t, filepath.Join(dataPath(p, c.ID), "more"),
			100*mib); got < c.CapacityBytes-2*mib ||
			got > c.CapacityBytes {
			t.Errorf("a copy of %d bytes takes %d", c.CapacityBytes, got)
		}
		if got := usage(t, p, c.ID); got.TotalBytes != c.CapacityBytes {
			t.Errorf("its size is %d, want %d", got.TotalBytes, c.CapacityBytes)
		}
		if c.SharedBytes < 8*mib || c.SharedBytes > 9*mib {
			t.Errorf("it shares %d bytes, which the ledger has to count", c.SharedBytes)
		}
	}
	if got := write(t, filepath.Join(dataPath(p, v.ID), "more"), 16*mib); got < 16*mib {
		t.Errorf("its source has room for %d bytes only", got)
	}
}

// With simple quotas the blocks that a snapshot keeps count for the volume. The volume still has
// room for its size.
func TestSnapshotsTakeNothingOfTheirVolumesSize(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	v := create(t, p, "v", 32*mib)
	file := filepath.Join(dataPath(p, v.ID), "file")
	var snapshots []volume.Snapshot
	for i, name := range []string{"one", "two", "three"} {
		if got := write(t, file, 28*mib); got < 28*mib {
			t.Fatalf("after %d snapshots the volume has room for %d bytes", i, got)
		}
		snapshots = append(snapshots, snapshot(t, p, name, v.ID))
		if got := p.limitOf(v); usage(t, p, v.ID).TotalBytes != got ||
			got < v.CapacityBytes+int64(i+1)*28*mib {
			t.Errorf("with %d snapshots the limit is %d, want %d", i+1, usage(t, p, v.ID).TotalBytes, got)
		}
	}
	p = restart(t, p)
	if got := p.limitOf(v); usage(t, p, v.ID).TotalBytes != got || got == v.CapacityBytes {
		t.Errorf("after a restart the limit is %d, want %d", usage(t, p, v.ID).TotalBytes, got)
	}
	for _, s := range snapshots {
		removeSnapshot(t, p, s.ID)
	}
	if _, err := expand(t, p, v.ID, 40*mib, 0); err != nil {
		t.Error(err)
	}
	waitPurged(t, p)
	if got := usage(t, p, v.ID).TotalBytes; got != 40*mib {
		t.Errorf("without snapshots the limit is %d, want %d", got, 40*mib)
	}
	wantLedger(t, p, 40*mib, 0)
}

func TestSnapshotInTheTrashStillRaisesTheLimitAfterARestart(t *testing.T) {
	opts := poolOn(t, disks.Btrfs).opts
	opts.Path += "-keeping"
	opts.TrashRetention = time.Hour
	p := openPool(t, opts)
	v := create(t, p, "v", 32*mib)
	write(t, filepath.Join(dataPath(p, v.ID), "file"), 16*mib)
	s := snapshot(t, p, "s", v.ID)
	removeSnapshot(t, p, s.ID)
	p = restart(t, p)
	if got, want := usage(t, p, v.ID).TotalBytes, 32*mib+s.HeldBytes; got != want {
		t.Errorf("the limit is %d, want %d", got, want)
	}
	closePool(t, p)
	opts.TrashRetention = 0
	p = openPool(t, opts)
	waitPurged(t, p)
	if got := usage(t, p, v.ID).TotalBytes; got != 32*mib {
		t.Errorf("after the purge the limit is %d, want %d", got, 32*mib)
	}
}

// Before the next start the filesystem may give the quota ID of a deleted volume to a new one.
func TestVolumeWithTheQuotaIDOfADeadOneHasItsOwnLimit(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	v := create(t, p, "v", 32*mib)
	write(t, filepath.Join(dataPath(p, v.ID), "file"), 16*mib)
	snapshot(t, p, "s", v.ID)
	remove(t, p, v.ID)
	waitPurged(t, p)
	p = restart(t, p)
	w := v
	w.ID = volume.NewID(p.ID(), request(t, "w", 8*mib).Name)
	if got := p.limitOf(w); got != w.CapacityBytes {
		t.Errorf("the limit is %d, want %d", got, w.CapacityBytes)
	}
	if got := p.limitOf(v); got <= v.CapacityBytes {
		t.Errorf("the limit of the deleted volume is %d: the test compared nothing", got)
	}
}

// A pool that was restored file by file from a backup has records with quota IDs, and no quotas.
// There is no limit to raise. The pool must open, and snapshots must succeed.
func TestPoolFromABackupOpensAndTakesSnapshots(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	closePool(t, p)
	p.opts.TrashRetention = time.Hour
	p = openPool(t, p.opts)
	v := create(t, p, "v", 32*mib)
	write(t, filepath.Join(dataPath(p, v.ID), "file"), 16*mib)
	removeSnapshot(t, p, snapshot(t, p, "deleted", v.ID).ID)
	closePool(t, p)
	opts := p.opts
	opts.Path = filepath.Join(disks.New(t, disks.Btrfs, 256*mib).Dir, "pool")
	if out, err := exec.CommandContext(
		t.Context(),
		"cp",
		"-a",
		p.opts.Path,
		opts.Path,
	).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p = openPool(t, opts)
	if got := status(t, p); got.Unenforced != 1 {
		t.Errorf("%d volumes are unenforced, want 1: the backup has quotas", got.Unenforced)
	}
	for range 2 {
		snapshot(t, p, "s", v.ID)
	}
}

func TestSnapshotThatIsNotDurableTakesNothingOffWhatOthersKeep(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	v := create(t, p, "v", 32*mib)
	write(t, filepath.Join(dataPath(p, v.ID), "file"), 16*mib)
	s := snapshot(t, p, "s", v.ID)
	p.trash.RetryAfter = 10 * time.Millisecond
	whole := p.commits
	p.commits = groupsync.New(func(f *os.File) error {
		if f == p.snapshots.dir.File {
			return errBroken
		}
		return f.Sync()
	})
	if _, err := p.CreateSnapshot(
		t.Context(),
		snapshotRequest(t, "lost", v.ID),
	); !errors.Is(
		err, errBroken,
	) {
		t.Fatalf("%v, want the error of the broken disk", err)
	}
	p.commits = whole
	waitPurged(t, p)
	wantEntries(t, p, layout.SnapshotsDir, "s")
	if got, want := p.limitOf(v), v.CapacityBytes+s.HeldBytes; got != want {
		t.Errorf("the limit is %d, want %d", got, want)
	}
}

// With simple quotas a snapshot keeps the blocks that its volume overwrites. The volume needs room
// for them from the moment of the snapshot, not only when the snapshot is complete.
func TestNearlyFullVolumeIsOverwrittenWhileItsSnapshotIsMade(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	v := create(t, p, "v", 32*mib)
	file := filepath.Join(dataPath(p, v.ID), "file")
	write(t, file, 28*mib)
	var during int64
	p.commits = groupsync.New(func(f *os.File) error {
		if during == 0 { // the fsync of the record, after btrfs has made the snapshot
			during = overwrite(t, file, 28*mib)
		}
		return f.Sync()
	})
	s := snapshot(t, p, "s", v.ID)
	if during != 28*mib {
		t.Errorf("%d bytes of the volume could be overwritten, want all 28 MiB", during)
	}
	if got, want := usage(t, p, v.ID).TotalBytes, v.CapacityBytes+s.HeldBytes; got != want {
		t.Errorf("the limit is %d afterwards, want %d", got, want)
	}
	if s.HeldBytes < 28*mib || s.HeldBytes > 29*mib {
		t.Errorf("the snapshot holds %d bytes, want what was written before it", s.HeldBytes)
	}
}

// overwrite writes in place, durably, and returns how many bytes there was room for.
func overwrite(t *testing.T, path string, size int64) (written int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, mib)
	rand.Read(chunk) // never fails: see crypto/rand
	for written < size {
		if _, err := f.WriteAt(chunk, written); err != nil {
			return written
		}
		if err := f.Sync(); err != nil {
			return written
		}
		written += mib
	}
	return written
}

// A snapshot that failed keeps blocks of its volume until it is purged. Until then, and not longer,
// the volume's limit is larger.
func TestFailedSnapshotLeavesTheLimitAsItWas(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	v := create(t, p, "v", 32*mib)
	file := filepath.Join(dataPath(p, v.ID), "file")
	write(t, file, 28*mib)
	whole := p.commits
	p.commits = groupsync.New(func(*os.File) error { return errBroken })
	if _, err := p.CreateSnapshot(
		t.Context(),
		snapshotRequest(t, "s", v.ID),
	); !errors.Is(
		err, errBroken,
	) {
		t.Fatalf("%v, want the error of the broken disk", err)
	}
	p.commits = whole
	if got := overwrite(t, file, 28*mib); got != 28*mib {
		t.Errorf("%d bytes of the volume could be overwritten, want all 28 MiB", got)
	}
	waitPurged(t, p)
	if got := usage(t, p, v.ID).TotalBytes; got != v.CapacityBytes {
		t.Errorf("the limit is %d, want %d", got, v.CapacityBytes)
	}
	wantLedger(t, p, v.CapacityBytes, 0)
}

// The filesystem may give the quota ID of a deleted volume to a new volume of the same name.
func TestVolumeMadeAnewHasNothingOfTheLimitOfTheOldOne(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	old := create(t, p, "v", 32*mib)
	write(t, filepath.Join(dataPath(p, old.ID), "file"), 16*mib)
	s := snapshot(t, p, "s", old.ID)
	remove(t, p, old.ID)
	waitPurged(t, p)
	v := create(t, p, "v", 8*mib)
	// Quota IDs are random, so that one comes again only once in a long time. The record says it did.
	path := filepath.Join(p.opts.Path, "snapshots", s.ID.Dir(), "snapshot.json")
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	record = bytes.ReplaceAll(record, fmt.Append(nil, old.QuotaID), fmt.Append(nil, v.QuotaID))
	if err := os.WriteFile(path, record, 0o600); err != nil {
		t.Fatal(err)
	}
	p = restart(t, p)
	if s, err = p.GetSnapshot(s.ID); err != nil {
		t.Fatal(err)
	}
	if s.SourceQuotaID != v.QuotaID || s.Source != v.ID {
		t.Fatalf("the snapshot is %+v, want one of a volume with the name and the quota ID of %+v", s, v)
	}
	if _, err := expand(t, p, v.ID, 9*mib, 0); err != nil {
		t.Fatal(err)
	}
	if got := usage(t, p, v.ID).TotalBytes; got != 9*mib {
		t.Errorf("the limit is %d, want %d", got, 9*mib)
	}
	p = restart(t, p)
	if got := usage(t, p, v.ID).TotalBytes; got != 9*mib {
		t.Errorf("after a restart the limit is %d, want %d", got, 9*mib)
	}
	removeSnapshot(t, p, s.ID)
	waitPurged(t, p)
	if got := usage(t, p, v.ID).TotalBytes; got != 9*mib {
		t.Errorf("without the snapshot the limit is %d, want %d", got, 9*mib)
	}
}
