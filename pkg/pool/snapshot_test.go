package pool

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// onEach runs a test in a pool on each filesystem.
func onEach(t *testing.T, test func(t *testing.T, p *Pool)) {
	t.Helper()
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) { test(t, poolOn(t, fstype)) })
	}
}

func snapshotRequest(t *testing.T, name string, source volume.ID) volume.SnapshotRequest {
	t.Helper()
	parsed, err := volume.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return volume.SnapshotRequest{Name: parsed, Source: source}
}

func snapshot(t *testing.T, p *Pool, name string, source volume.ID) volume.Snapshot {
	t.Helper()
	s, err := p.CreateSnapshot(t.Context(), snapshotRequest(t, name, source))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func removeSnapshot(t *testing.T, p *Pool, id volume.SnapshotID) {
	t.Helper()
	if err := p.DeleteSnapshot(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// snapshotPath returns the path of a snapshot's data, as an administrator would find it.
func snapshotPath(p *Pool, id volume.SnapshotID) string {
	dir := filepath.Join(p.opts.Path, layout.SnapshotsDir, id.Dir())
	if held := filepath.Join(dir, backend.Holder, backend.Data); pathExists(held) {
		return held
	}
	return filepath.Join(dir, backend.Data)
}

// from returns a request for a copy of at least that size.
func from(t *testing.T, name string, source volume.Source, bytes int64) volume.CreateRequest {
	t.Helper()
	req := request(t, name, bytes)
	req.Size.Limit = 0
	req.Source = source
	return req
}

func restore(t *testing.T, p *Pool, req volume.CreateRequest, sources Sources) volume.Volume {
	t.Helper()
	v, err := p.CreateFrom(t.Context(), req, sources)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// only implements Sources with these pools.
type only []*Pool

func (o only) ByID(id volume.PoolID) (*Pool, error) {
	for _, p := range o {
		if p.ID() == id {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: pool %s", volume.ErrNoSpace, id)
}

func wantTree(t *testing.T, root string, want map[string]string) {
	t.Helper()
	if got := listTree(t, root); !maps.Equal(got, want) {
		t.Errorf("%s has %q, want %q", root, got, want)
	}
}

var someTree = map[string]string{
	"file":            "content",
	"directory/":      "",
	"directory/other": "more",
	"empty/":          "",
}

func TestSnapshotIsAsTheVolumeWasAndOutlivesIt(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		v := create(t, p, "v", 64*mib)
		writeTree(t, dataPath(p, v.ID), someTree)
		s := snapshot(t, p, "s", v.ID)
		if s.Source != v.ID || s.RestoreBytes != 64*mib || s.Spec != v.Spec ||
			s.Created.Before(v.Created) {
			t.Errorf("the snapshot is %+v", s)
		}
		writeTree(t, dataPath(p, v.ID), map[string]string{"file": "changed", "new": ""})
		wantTree(t, snapshotPath(p, s.ID), someTree)
		remove(t, p, v.ID)
		waitPurged(t, p)
		p = restart(t, p)
		wantTree(t, snapshotPath(p, s.ID), someTree)
		got, err := p.GetSnapshot(s.ID)
		if err != nil || got.Name != s.Name || got.Source != s.Source || !got.Created.Equal(s.Created) ||
			got.HeldBytes != s.HeldBytes {
			t.Errorf("after a restart the snapshot is %+v, %v, want %+v", got, err, s)
		}
		wantLedger(t, p, s.HeldBytes, 0)
		removeSnapshot(t, p, s.ID)
		waitPurged(t, p)
		wantLedger(t, p, 0, 0)
		wantEntries(t, p, layout.SnapshotsDir)
		wantEntries(t, p, layout.TmpDir)
	})
}

func TestRestoredVolumeIsIndependentOfItsSource(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		v := create(t, p, "v", 64*mib)
		writeTree(t, dataPath(p, v.ID), someTree)
		s := snapshot(t, p, "s", v.ID)
		restored := restore(t, p, from(t, "restored", volume.FromSnapshot(s.ID), 64*mib), only{p})
		cloned := restore(t, p, from(t, "cloned", volume.FromVolume(v.ID), 96*mib), only{p})
		if restored.CapacityBytes != 64*mib || cloned.CapacityBytes != 96*mib ||
			restored.Source != volume.FromSnapshot(s.ID) {
			t.Errorf("the new volumes are %+v and %+v", restored, cloned)
		}
		for _, copied := range []volume.Volume{restored, cloned} {
			wantTree(t, dataPath(p, copied.ID), someTree)
			writeTree(t, dataPath(p, copied.ID), map[string]string{"file": "changed"})
		}
		wantTree(t, dataPath(p, v.ID), someTree)
		wantTree(t, snapshotPath(p, s.ID), someTree)
		remove(t, p, v.ID)
		removeSnapshot(t, p, s.ID)
		waitPurged(t, p)
		p = restart(t, p)
		changed := maps.Clone(someTree)
		changed["file"] = "changed"
		wantTree(t, dataPath(p, restored.ID), changed)
		wantTree(t, dataPath(p, cloned.ID), changed)
		// The source was deleted. The repeated request still gets the volume.
		if got := restore(
			t,
			p,
			from(t, "restored", volume.FromSnapshot(s.ID), 64*mib),
			only{p},
		); got.ID != restored.ID {
			t.Errorf("the repeated request got %+v", got)
		}
		remove(t, p, restored.ID)
		remove(t, p, cloned.ID)
		waitPurged(t, p)
		wantLedger(t, p, 0, 0)
	})
}

func TestFileVolumeIsSnapshotAndRestored(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		req := request(t, "v", 64*mib)
		req.Spec = volume.Spec{Type: volume.FileOrCreate, Mode: 0o640, UID: 7}
		v, err := p.Create(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dataPath(p, v.ID), []byte("content"), 0); err != nil {
			t.Fatal(err)
		}
		s := snapshot(t, p, "s", v.ID)
		again := from(t, "again", volume.FromSnapshot(s.ID), 64*mib)
		again.Spec.Type = volume.FileOrCreate
		restored := restore(t, p, again, only{p})
		if got, err := os.ReadFile(dataPath(p, restored.ID)); string(got) != "content" {
			t.Errorf("restored is %q, %v", got, err)
		}
		data, err := openData(p, restored.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer data.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(data.Fd()), &st); err != nil || st.Mode != unix.S_IFREG|0o640 ||
			st.Uid != 7 {
			t.Errorf("restored has mode %o and owner %d, %v: want those of the source", st.Mode, st.Uid, err)
		}
	})
}

// A restored application finds its data as it was. The owner and mode of the class are for empty
// volumes.
func TestCopyHasTheOwnerAndModeOfItsSource(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		v := create(t, p, "v", 64*mib)
		if err := os.Chown(dataPath(p, v.ID), 11, 12); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dataPath(p, v.ID), 0o710|os.ModeSetgid); err != nil {
			t.Fatal(err)
		}
		req := from(t, "copy", volume.FromVolume(v.ID), 64*mib)
		req.Spec.Mode, req.Spec.UID = 0o777, 13
		restore(t, p, req, only{p})
		// the record has the requested specification, so the repeated request fits
		copied := restore(t, p, req, only{p})
		var st unix.Stat_t
		if err := unix.Stat(dataPath(p, copied.ID),
			&st); err != nil || st.Mode != unix.S_IFDIR|0o2710 || st.Uid != 11 ||
			st.Gid != 12 {
			t.Errorf("mode %o, owner %d:%d, %v, want those of the source", st.Mode, st.Uid, st.Gid, err)
		}
	})
}

func TestCopyToAnotherPool(t *testing.T) {
	pools := map[string]*Pool{}
	for _, fstype := range disks.Types() {
		pools[fstype] = poolOn(t, fstype)
	}
	all := slices.Collect(maps.Values(pools))
	for _, source := range disks.Types() {
		v := create(t, pools[source], "v", 64*mib)
		writeTree(t, dataPath(pools[source], v.ID), someTree)
		s := snapshot(t, pools[source], "s", v.ID)
		for _, target := range disks.Types() {
			t.Run(source+" to "+target, func(t *testing.T) {
				p := pools[target]
				copied := restore(t, p, from(t, "copy-from-"+source, volume.FromSnapshot(s.ID), 64*mib),
					only(all))
				wantTree(t, dataPath(p, copied.ID), someTree)
				if copied.ID.Pool() != p.ID() {
					t.Errorf("the copy is %s, not in pool %s", copied.ID, p.ID())
				}
			})
		}
	}
}

func TestSnapshotOfAnotherVolumeIsNotTheSame(t *testing.T) {
	p := newPool(t)
	one, other := create(t, p, "one", mib), create(t, p, "other", mib)
	s := snapshot(t, p, "s", one.ID)
	if again := snapshot(t, p, "s", one.ID); again != s {
		t.Errorf("the same call got %+v, then %+v", s, again)
	}
	if _, err := p.CreateSnapshot(
		t.Context(),
		snapshotRequest(t, "s", other.ID),
	); !errors.Is(
		err, volume.ErrIncompatible,
	) {
		t.Errorf("%v, want ErrIncompatible", err)
	}
	absent := volume.NewID(p.ID(), request(t, "absent", mib).Name)
	if _, err := p.CreateSnapshot(
		t.Context(),
		snapshotRequest(t, "t", absent),
	); !errors.Is(
		err, volume.ErrNotFound,
	) {
		t.Errorf("%v, want ErrNotFound", err)
	}
	remove(t, p, one.ID)
	// the snapshot exists, whether its source does or not
	if again := snapshot(t, p, "s", one.ID); again != s {
		t.Errorf("without its source the same call got %+v, want %+v", again, s)
	}
}

func TestCopyThatCannotBeIsRefusedBeforeWorkBegins(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", 2*mib)
	s := snapshot(t, p, "s", v.ID)
	create(t, p, "taken", 2*mib)
	committed := status(t, p).CommittedBytes
	absent := volume.NewSnapshotID(p.ID(), snapshotRequest(t, "absent", v.ID).Name)
	elsewhere := volume.NewSnapshotID("0123456789ab", snapshotRequest(t, "s", v.ID).Name)
	tests := []struct {
		name   string
		change func(*volume.CreateRequest)
		want   error
	}{
		{
			name:   "another type",
			change: func(r *volume.CreateRequest) { r.Spec.Type = volume.FileOrCreate },
			want:   volume.ErrInvalid,
		},
		{
			name:   "smaller",
			change: func(r *volume.CreateRequest) { r.Size = volume.SizeRange{Required: mib} },
			want:   volume.ErrOutOfRange,
		},
		{
			name:   "limit below",
			change: func(r *volume.CreateRequest) { r.Size = volume.SizeRange{Limit: mib} },
			want:   volume.ErrOutOfRange,
		},
		{
			name:   "larger than the pool",
			change: func(r *volume.CreateRequest) { r.Size.Required = 1 << 50 },
			want:   volume.ErrNoSpace,
		},
		{
			name:   "absent",
			change: func(r *volume.CreateRequest) { r.Source = volume.FromSnapshot(absent) },
			want:   volume.ErrNotFound,
		},
		{
			name:   "on another node",
			change: func(r *volume.CreateRequest) { r.Source = volume.FromSnapshot(elsewhere) },
			want:   volume.ErrNoSpace,
		},
		{
			name:   "name of an empty volume",
			change: func(r *volume.CreateRequest) { r.Name = request(t, "taken", 1).Name },
			want:   volume.ErrIncompatible,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := from(t, "copy", volume.FromSnapshot(s.ID), 2*mib)
			tt.change(&req)
			if v, err := p.CreateFrom(t.Context(), req, only{p}); !errors.Is(err, tt.want) {
				t.Errorf("%+v, %v, want %v", v, err, tt.want)
			}
			wantEntries(t, p, layout.VolumesDir, "taken", "v")
			waitPurged(t, p)
			wantLedger(t, p, committed, 0)
		})
	}
}

func TestSizeThatNobodySaysIsTheSources(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", 2*mib)
	req := from(t, "copy", volume.FromVolume(v.ID), 0)
	if got := restore(t, p, req, only{p}); got.CapacityBytes != 2*mib {
		t.Errorf("the copy has %d bytes", got.CapacityBytes)
	}
	restore(t, p, req, only{p})
}

func TestVolumeOfAnotherSourceIsNotTheSame(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	one, other := snapshot(t, p, "one", v.ID), snapshot(t, p, "other", v.ID)
	restore(t, p, from(t, "copy", volume.FromSnapshot(one.ID), mib), only{p})
	p = restart(t, p)
	for _, source := range []volume.Source{
		{}, volume.FromSnapshot(other.ID), volume.FromVolume(v.ID),
	} {
		req := from(t, "copy", source, mib)
		var err error
		if source.IsNone() {
			_, err = p.Create(t.Context(), req)
		} else {
			_, err = p.CreateFrom(t.Context(), req, only{p})
		}
		if !errors.Is(err, volume.ErrIncompatible) {
			t.Errorf("from %s: %v, want ErrIncompatible", source, err)
		}
	}
}

func TestSnapshotsAreListedInPagesAndByVolume(t *testing.T) {
	p := newPool(t)
	var all, ofOne []string
	one, other := create(t, p, "v", mib), create(t, p, "v2", mib)
	for i := range 10 {
		source := []volume.Volume{one, other}[i%2]
		s := snapshot(t, p, fmt.Sprintf("snapshot-%d", i), source.ID)
		all = append(all, s.ID.Dir())
		if i%2 == 0 {
			ofOne = append(ofOne, s.ID.Dir())
		}
	}
	p = restart(t, p)
	var listed, listedOfOne []string
	for page := p.ListSnapshots("", 3); len(page) > 0; {
		for _, e := range page {
			listed = append(listed, e.ID.Dir())
		}
		page = p.ListSnapshots(page[len(page)-1].ID.Dir(), 3)
	}
	for page := p.ListSnapshotsOf(one.ID, "", 2); len(page) > 0; {
		for _, e := range page {
			listedOfOne = append(listedOfOne, e.ID.Dir())
		}
		page = p.ListSnapshotsOf(one.ID, page[len(page)-1].ID.Dir(), 2)
	}
	if !slices.Equal(listed, all) || !slices.Equal(listedOfOne, ofOne) {
		t.Errorf("the list has %q, that of one volume %q; want %q and %q", listed, listedOfOne, all,
			ofOne)
	}
	if n := p.snapshots.catalog.Len(); n != len(all) {
		t.Errorf("%d snapshots", n)
	}
}

func TestDamagedSnapshotKeepsItsNameAndCanBeDeleted(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		v := create(t, p, "v", 32*mib)
		s := snapshot(t, p, "s", v.ID)
		path := filepath.Join(p.opts.Path, layout.SnapshotsDir, "s", record.SnapshotFile)
		closePool(t, p)
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		p = openPool(t, p.opts)
		if _, err := p.GetSnapshot(s.ID); !errors.Is(err, volume.ErrCorrupt) {
			t.Errorf("get: %v, want ErrCorrupt", err)
		}
		if _, err := p.CreateSnapshot(
			t.Context(),
			snapshotRequest(t, "s", v.ID),
		); !errors.Is(
			err, volume.ErrCorrupt,
		) {
			t.Errorf("create: %v, want ErrCorrupt", err)
		}
		if _, err := p.CreateFrom(
			t.Context(),
			from(t, "copy", volume.FromSnapshot(s.ID), 32*mib),
			only{p},
		); !errors.Is(
			err, volume.ErrCorrupt,
		) {
			t.Errorf("restore: %v, want ErrCorrupt", err)
		}
		if list := p.ListSnapshots("", 9); len(list) != 1 || list[0].ID != s.ID ||
			!list[0].IsDamaged() {
			t.Errorf("the list is %+v", list)
		}
		removeSnapshot(t, p, s.ID)
		waitPurged(t, p)
		snapshot(t, p, "s", v.ID)
	})
}

func TestDeleteOfAnAbsentSnapshotIsNoError(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	s := snapshot(t, p, "s", v.ID)
	for range 2 {
		removeSnapshot(t, p, s.ID)
	}
	waitPurged(t, p)
	wantLedger(t, p, mib, 0)
}

func TestSnapshotAndVolumeOfOneNameAreTwoThings(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		v := create(t, p, "same", 32*mib)
		writeTree(t, dataPath(p, v.ID), someTree)
		s := snapshot(t, p, "same", v.ID)
		remove(t, p, v.ID)
		removeSnapshot(t, p, s.ID)
		p = restart(t, p) // both may still be in the trash
		waitPurged(t, p)
		wantLedger(t, p, 0, 0)
	})
}

func TestPoolWithoutRoomTakesNoSnapshot(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	v := create(t, p, "v", status(t, p).AvailableBytes)
	if _, err := p.CreateSnapshot(
		t.Context(),
		snapshotRequest(t, "s", v.ID),
	); !errors.Is(
		err, volume.ErrNoSpace,
	) {
		t.Errorf("%v, want ErrNoSpace", err)
	}
	wantEntries(t, p, layout.SnapshotsDir)
	wantEntries(t, p, layout.TmpDir)
}

// A pod may have a lease on its file (fcntl(2), F_SETLEASE). The open of the file waits for the
// lease. The snapshot must not fail.
func TestSnapshotOfAFileThatIsLeasedWaitsForTheLease(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			req := request(t, "v", mib)
			req.Spec = volume.Spec{Type: volume.FileOrCreate, Mode: 0o644}
			v, err := p.Create(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(dataPath(p, v.ID), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			fd := f.Fd()
			if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_WRLCK); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(100*time.Millisecond,
				func() { _, _ = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK) })
			snapshot(t, p, "s", v.ID)
		})
	}
}
