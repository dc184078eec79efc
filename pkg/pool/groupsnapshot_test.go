package pool

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func groupRequest(t *testing.T, name string, sources ...volume.ID) volume.GroupSnapshotRequest {
	t.Helper()
	parsed, err := volume.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	g, err := volume.NewSnapshotGroup(parsed, sources)
	if err != nil {
		t.Fatal(err)
	}
	return volume.GroupSnapshotRequest{Group: g}
}

func groupSnapshot(t *testing.T, p *Pool, name string, sources ...volume.ID) volume.GroupSnapshot {
	t.Helper()
	s, err := p.CreateGroupSnapshot(t.Context(), groupRequest(t, name, sources...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newImages creates image volumes that no pod has.
func newImages(t *testing.T, p *Pool, names ...string) (ids []volume.ID) {
	t.Helper()
	for _, name := range names {
		parsed, err := volume.ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := p.Create(t.Context(), volume.CreateRequest{
			Name: parsed, Size: volume.SizeRange{Required: 1}, Spec: imageSpec(volume.Ext4),
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, v.ID)
	}
	return ids
}

func TestGroupSnapshotHasOneSnapshotOfEachVolumeAndIsTakenOnce(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		ids := newImages(t, p, "v", "w")
		made := groupSnapshot(t, p, "g", ids...)
		if len(made.Snapshots) != 2 || made.ID.String() != "group-"+string(p.ID())+"-g" ||
			!made.Snapshots[0].Created.Equal(made.Snapshots[1].Created) {
			t.Fatalf("got %+v", made)
		}
		for range 2 {
			again := groupSnapshot(t, p, "g", ids[1], ids[0])
			found, err := p.GetGroupSnapshot(made.ID, nil)
			if err != nil || !slices.Equal(found.Snapshots, again.Snapshots) {
				t.Errorf("got %+v, %v; created %+v", found, err, again)
			}
			for i, s := range found.Snapshots {
				if s.Source != ids[i] || s.ID != made.Snapshots[i].ID || len(s.Group.Sources()) != 2 {
					t.Errorf("snapshot %d is %+v, created %+v", i, s, made.Snapshots[i])
				}
			}
			p = restart(t, p)
		}
		_, err := p.CreateGroupSnapshot(t.Context(), groupRequest(t, "g", ids[0]))
		if !errors.Is(err, volume.ErrIncompatible) {
			t.Errorf("the same name for another volume: %v, want ErrIncompatible", err)
		}
		if err := p.DeleteGroupSnapshot(t.Context(), made.ID, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := p.GetGroupSnapshot(made.ID, nil); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("deleted, and found: %v", err)
		}
		waitPurged(t, p)
		wantEntries(t, p, layout.SnapshotsDir)
		wantEntries(t, p, layout.TmpDir)
	})
}

func TestSnapshotOfAGroupIsDeletedWithItsGroupOnly(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	made := groupSnapshot(t, p, "g", newImages(t, p, "v", "w")...)
	member := made.Snapshots[0].ID
	if err := p.DeleteSnapshot(t.Context(), member); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("delete one of a group: %v, want ErrInvalid", err)
	}
	ids := []string{member.String()}
	if _, err := p.GetGroupSnapshot(made.ID, ids); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("get a group of one snapshot: %v, want ErrInvalid", err)
	}
	if err := p.DeleteGroupSnapshot(t.Context(), made.ID, ids); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("delete a group of one snapshot: %v, want ErrInvalid", err)
	}
	ids = append(ids, made.Snapshots[1].ID.String())
	for range 2 {
		if err := p.DeleteGroupSnapshot(t.Context(), made.ID, ids); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.GetSnapshot(member); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the group is deleted, and not its snapshot: %v", err)
	}
}

func TestGroupSnapshotThatHasNoRoomMakesNothing(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	ids := newImages(t, p, "v", "w", "x")
	committed, _ := p.ledger.Counts()
	r, err := p.room()
	if err != nil {
		t.Fatal(err)
	}
	// room for two of the three snapshots
	fill := p.ledger.Available(r) - committed/3*2 - committed/6
	if err := p.reserve(fill); err != nil {
		t.Fatal(err)
	}
	_, err = p.CreateGroupSnapshot(t.Context(), groupRequest(t, "g", ids...))
	if !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	wantLedger(t, p, committed+fill, 0)
	wantEntries(t, p, layout.SnapshotsDir)
	groupSnapshot(t, p, "g", ids[:2]...)
}

func TestGroupThatACrashHasLeftPartlyIsDeletedAtTheNextStart(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	ids := newImages(t, p, "v", "w", "x")
	part, whole := groupSnapshot(t, p, "part", ids...), groupSnapshot(t, p, "whole", ids...)
	alone := snapshot(t, p, "alone", ids[0])
	closePool(t, p)
	interrupt(t, p, part.Snapshots[1], layout.TrashDir)
	// What cannot be read is there: a bad sector must not cost the other snapshots.
	damage(t, p, whole.Snapshots[1])
	p = openPool(t, p.opts)
	want := []string{alone.ID.Dir()}
	for _, s := range whole.Snapshots {
		want = append(want, s.ID.Dir())
	}
	slices.Sort(want)
	wantEntries(t, p, layout.SnapshotsDir, want...)
	if _, err := p.GetGroupSnapshot(part.ID, nil); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a part of a group is found: %v", err)
	}
	if s, err := p.GetGroupSnapshot(whole.ID, nil); !errors.Is(err, volume.ErrCorrupt) ||
		len(s.Snapshots) != 3 {
		t.Errorf("a group with a damaged snapshot: %+v, %v", s, err)
	}
	err := p.DeleteSnapshot(t.Context(), whole.Snapshots[1].ID)
	if !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("delete the damaged snapshot of a group: %v, want ErrInvalid", err)
	}
	groupSnapshot(t, p, "part", ids...)
	for _, id := range []volume.GroupSnapshotID{part.ID, whole.ID} {
		if err := p.DeleteGroupSnapshot(t.Context(), id, nil); err != nil {
			t.Error(err)
		}
	}
	wantEntries(t, p, layout.SnapshotsDir, alone.ID.Dir())
}

// pathOfMember is the directory of a snapshot.
func pathOfMember(p *Pool, s volume.Snapshot) string {
	return filepath.Join(p.opts.Path, layout.SnapshotsDir, s.ID.Dir())
}

// interrupt moves a snapshot to where a crash between the renames of a group leaves it.
func interrupt(t *testing.T, p *Pool, s volume.Snapshot, dirName string) {
	t.Helper()
	name := trash.UniqueName(snapshotPrefix + s.ID.Dir())
	err := os.Rename(pathOfMember(p, s), filepath.Join(p.opts.Path, dirName, name))
	if err != nil {
		t.Fatal(err)
	}
}

// damage makes the record of a snapshot unreadable.
func damage(t *testing.T, p *Pool, s volume.Snapshot) {
	t.Helper()
	file := filepath.Join(pathOfMember(p, s), record.SnapshotFile)
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestGroupWhoseCreationACrashHasInterruptedIsDeletedAtTheNextStart(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	g := groupSnapshot(t, p, "g", newImages(t, p, "v", "w", "x")...)
	closePool(t, p)
	interrupt(t, p, g.Snapshots[2], layout.TmpDir)
	p = openPool(t, p.opts)
	wantEntries(t, p, layout.SnapshotsDir)
}

// An older driver, fsck or an incomplete backup may have taken one: the others are what is left.
func TestGroupThatLacksASnapshotWithoutACrashIsKeptUntilItIsDeleted(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	ids := newImages(t, p, "v", "w", "x")
	g, crashed := groupSnapshot(t, p, "g", ids...), groupSnapshot(t, p, "crashed", ids...)
	closePool(t, p)
	if err := os.RemoveAll(pathOfMember(p, g.Snapshots[1])); err != nil {
		t.Fatal(err)
	}
	interrupt(t, p, crashed.Snapshots[1], layout.TrashDir) // is no reason to delete those of g
	kept := []string{g.Snapshots[0].ID.Dir(), g.Snapshots[2].ID.Dir()}
	slices.Sort(kept)
	for range 2 {
		p = openPool(t, p.opts)
		wantEntries(t, p, layout.SnapshotsDir, kept...)
		closePool(t, p)
	}
	p = openPool(t, p.opts)
	if _, err := p.GetGroupSnapshot(g.ID, nil); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a part of a group is found: %v", err)
	}
	if err := p.DeleteGroupSnapshot(t.Context(), g.ID, nil); err != nil {
		t.Error(err)
	}
	wantEntries(t, p, layout.SnapshotsDir)
}

func TestDirectoriesThatAreCopiedFileByFileAreInNoGroup(t *testing.T) {
	for _, fstype := range []string{disks.XFS, disks.Ext4} {
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			v := create(t, p, "v", mib)
			ids := append(newImages(t, p, "i"), v.ID)
			before, _ := p.ledger.Counts()
			_, err := p.CreateGroupSnapshot(t.Context(), groupRequest(t, "g", ids...))
			if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), v.ID.String()) {
				t.Errorf("got %v, want ErrPrecondition that names the directory", err)
			}
			wantLedger(t, p, before, 0)
			wantEntries(t, p, layout.TmpDir)
		})
	}
}

// counter is a file with a number, which is durable when set returns.
type counter struct{ path string }

func (c counter) set(n uint64) error {
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.BigEndian.AppendUint64(nil, n), 0)
	return errors.Join(err, f.Sync(), f.Close())
}

func (c counter) get(t *testing.T) uint64 {
	t.Helper()
	content, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint64(append(content, make([]byte, 8)...))
}

// countUp sets both counters to 1, 2, and so on, a before b, until the test ends. Other writers
// write into the volumes meanwhile, as a database does.
func countUp(t *testing.T, a, b counter) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	t.Cleanup(func() { cancel(); writers.Wait() })
	begun := make(chan struct{})
	writers.Go(func() {
		for n := uint64(1); ctx.Err() == nil; n++ {
			if err := errors.Join(a.set(n), b.set(n)); err != nil {
				t.Error(err)
				return
			}
			if n == 1 {
				close(begun)
			}
		}
	})
	for _, c := range []counter{a, b} {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := os.WriteFile(c.path+"-more", make([]byte, 256<<10), 0o600); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	<-begun
}

// A write to b is made after the write to a is durable. So in snapshots of one moment the number in
// b is never greater than that in a, and at most one less. The other volumes make the time from the
// first to the last snapshot long enough for a writer, if they are taken one after the other.
func TestGroupSnapshotOfDirectoriesShowsOneMoment(t *testing.T) {
	p := poolOn(t, disks.Btrfs)
	var ids []volume.ID
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		ids = append(ids, create(t, p, name, 8*mib).ID)
	}
	if !hasSimpleQuotas() {
		_, err := p.CreateGroupSnapshot(t.Context(), groupRequest(t, "refused", ids...))
		if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "full quotas") {
			t.Errorf("%v: want ErrPrecondition that names full quotas", err)
		}
		return
	}
	last := len(ids) - 1
	countUp(t, counter{dataPath(p, ids[0]) + "/counter"}, counter{dataPath(p, ids[last]) + "/counter"})
	for i := range 8 {
		s := groupSnapshot(t, p, "g"+string(rune('a'+i)), ids...)
		inA := counter{snapshotPath(p, s.Snapshots[0].ID) + "/counter"}.get(t)
		inB := counter{snapshotPath(p, s.Snapshots[last].ID) + "/counter"}.get(t)
		if inB > inA || inA-inB > 1 {
			t.Errorf("group snapshot %d has %d in the first volume and %d in the last", i, inA, inB)
		}
		if err := p.DeleteGroupSnapshot(t.Context(), s.ID, nil); err != nil {
			t.Error(err)
		}
	}
}

// hasSimpleQuotas says whether btrfs has simple quotas, as from Linux 6.7 on. A pool gets full ones
// where it has not.
func hasSimpleQuotas() bool {
	_, err := os.Stat("/sys/fs/btrfs/features/simple_quota")
	return err == nil
}
