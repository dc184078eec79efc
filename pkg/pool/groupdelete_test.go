package pool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func memberIDs(g volume.GroupSnapshot) (ids []string) {
	for _, s := range g.Snapshots {
		ids = append(ids, s.ID.String())
	}
	return ids
}

func memberDirs(groups ...volume.GroupSnapshot) (dirs []string) {
	for _, g := range groups {
		for _, s := range g.Snapshots {
			dirs = append(dirs, s.ID.Dir())
		}
	}
	slices.Sort(dirs)
	return dirs
}

// No record says which of the damaged snapshots are of the group. Their names do, and nothing else
// is deleted.
func TestGroupOfDamagedSnapshotsIsDeletedAndNoOtherDamagedOne(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	ids := newImages(t, p, "v", "w", "x")
	g, other := groupSnapshot(t, p, "g", ids...), groupSnapshot(t, p, "other", ids[:2]...)
	alone := snapshot(t, p, "alone", ids[0])
	likeOne := snapshot(t, p, "g-"+strings.Repeat("0", 40), ids[0])
	for _, s := range slices.Concat(g.Snapshots, other.Snapshots, []volume.Snapshot{alone, likeOne}) {
		damage(t, p, s)
	}
	p = restart(t, p)
	for range 2 { // the second one finds nothing
		if err := p.DeleteGroupSnapshot(t.Context(), g.ID, memberIDs(g)); err != nil {
			t.Fatal(err)
		}
	}
	kept := append(memberDirs(other), alone.ID.Dir(), likeOne.ID.Dir())
	slices.Sort(kept)
	wantEntries(t, p, layout.SnapshotsDir, kept...)

	for _, tc := range []struct {
		title string
		ids   []string
		want  error
	}{
		{"no IDs, and a damaged snapshot that may be of it", nil, volume.ErrCorrupt},
		{"one ID too few", memberIDs(other)[:1], volume.ErrInvalid},
		{"one ID too many", append(memberIDs(other), likeOne.ID.String()), volume.ErrCorrupt},
	} {
		err := p.DeleteGroupSnapshot(t.Context(), other.ID, tc.ids)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.title, err, tc.want)
		}
		wantEntries(t, p, layout.SnapshotsDir, kept...)
	}
	if err := p.DeleteSnapshot(t.Context(), likeOne.ID); err != nil {
		t.Error(err)
	}
	if err := p.DeleteGroupSnapshot(t.Context(), other.ID, nil); err != nil {
		t.Error(err)
	}
	wantEntries(t, p, layout.SnapshotsDir, alone.ID.Dir())
}

func TestGroupOfDamagedSnapshotsThatNothingProvesIsNotDeleted(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	ids := newImages(t, p, "v", "w")
	g := groupSnapshot(t, p, "g", ids...)
	for _, s := range g.Snapshots {
		damage(t, p, s)
	}
	if err := p.Delete(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	p = restart(t, p)
	err := p.DeleteGroupSnapshot(t.Context(), g.ID, memberIDs(g))
	if !errors.Is(err, volume.ErrCorrupt) || !strings.Contains(err.Error(), g.Snapshots[0].ID.Dir()) {
		t.Errorf("got %v, want ErrCorrupt that names the snapshot of the deleted volume", err)
	}
	wantEntries(t, p, layout.SnapshotsDir, memberDirs(g)...)
	if _, err := p.CreateGroupSnapshot(t.Context(), groupRequest(t, "g", ids[1])); !errors.Is(err,
		volume.ErrCorrupt) {
		t.Errorf("taken again: %v, want ErrCorrupt", err)
	}
}

// Without the first snapshots in the trash, a start could not tell that the group is being deleted.
func TestDeletedSnapshotsOfAGroupArePurgedAfterTheOthersAreDeleted(t *testing.T) {
	for _, isRestarted := range []bool{false, true} {
		p := poolOn(t, disks.Ext4)
		ids := newImages(t, p, "v", "w", "x")
		g, alone := groupSnapshot(t, p, "g", ids...), snapshot(t, p, "alone", ids[0])
		last := pathOfMember(p, g.Snapshots[2])
		if err := unix.Mount("none", last, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(last, unix.MNT_DETACH) })
		err := p.DeleteGroupSnapshot(t.Context(), g.ID, nil)
		if !errors.Is(err, volume.ErrInUse) {
			t.Fatalf("got %v, want ErrInUse", err)
		}
		if err := p.DeleteSnapshot(t.Context(), alone.ID); err != nil {
			t.Fatal(err)
		}
		inTrash := filepath.Join(p.opts.Path, layout.TrashDir)
		eventually(t, "the snapshot that was deleted later is purged", func() bool {
			left, err := filepath.Glob(filepath.Join(inTrash, "s-"+alone.ID.Dir()+".*"))
			return err == nil && len(left) == 0
		})
		if left := entries(t, inTrash); len(left) != 2 {
			t.Errorf("the trash has %q, want the two deleted snapshots of the group", left)
		}
		if err := unix.Unmount(last, 0); err != nil {
			t.Fatal(os.NewSyscallError("umount", err))
		}
		if isRestarted {
			p = restart(t, p)
		} else if err := p.DeleteGroupSnapshot(t.Context(), g.ID, nil); err != nil {
			t.Fatal(err)
		}
		wantEntries(t, p, layout.SnapshotsDir)
		waitPurged(t, p)
	}
}
