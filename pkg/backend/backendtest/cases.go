package backendtest

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func testModeAndOwner(fix *backendFixture) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for _, s := range []volume.Spec{
		{Type: volume.DirectoryOrCreate, Mode: 0o755},
		{Type: volume.DirectoryOrCreate, Mode: 0o3777, UID: 1000, GID: 2000},
		{Type: volume.FileOrCreate, Mode: 0o644},
		{Type: volume.FileOrCreate, Mode: 0o602, UID: 4294967294, GID: 4294967294},
	} {
		dir := fix.mkdir()
		f, _, err := fix.backend.Make(dir, s, size)
		fixture.Must(fix.t, err)
		f.Close()
		data, err := backend.OpenData(dir, unix.O_PATH)
		fixture.Must(fix.t, err)
		var st unix.Stat_t
		fixture.Must(fix.t, unix.Fstat(int(data.Fd()), &st))
		data.Close()
		got := volume.Spec{Type: typeOf(st), Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
		if got != s {
			fix.t.Errorf("made %+v, want %+v", got, s)
		}
	}
}

func typeOf(st unix.Stat_t) volume.Type {
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return volume.FileOrCreate
	}
	return volume.DirectoryOrCreate
}

func testFailedMake(fix *backendFixture) {
	for _, volumeType := range volume.ManagedTypes() {
		v := fix.make(volumeType)
		f, quotaID, err := fix.backend.Make(v.dir, spec(volumeType), size)
		if err == nil || quotaID != 0 {
			fix.t.Errorf("made %s over another one: %v, quota ID %d, %v", volumeType, f, quotaID, err)
		}
		fix.wantRoom(v.file("f"), mib)
		if fix.backend.Enforces() {
			fix.fill(v.file("f"), mib)
		}
	}
}

func testRemove(fix *backendFixture) {
	for _, volumeType := range volume.ManagedTypes() {
		v := fix.make(volumeType)
		fix.wantRoom(v.file("f"), mib)
		fix.remove(v)
		names, err := os.ReadDir(v.dir.Name())
		if err != nil || len(names) > 0 {
			fix.t.Errorf("after a removed %s there are %v, %v", volumeType, names, err)
		}
		fixture.Must(fix.t, fix.backend.Discard(v.dir)) // of nothing
		fix.release(v.quotaID)                          // again
	}
}

func testUsage(fix *backendFixture) {
	const written = 2 * mib
	for _, volumeType := range volume.ManagedTypes() {
		v := fix.make(volumeType)
		before := fix.usage(v)
		fix.wantRoom(v.file("f"), written)
		u := fix.usage(v)
		got := u.UsedBytes - before.UsedBytes
		if got < written || got > written+fix.subject.Slack+256<<10 {
			fix.t.Errorf("%s: after %d bytes the use has grown by %d", volumeType, written, got)
		}
		if u.UsedBytes+u.AvailableBytes > u.TotalBytes {
			fix.t.Errorf("%s: more used and available than there is: %+v", volumeType, u)
		}
		if fix.backend.Enforces() && (u.TotalBytes != size || u.AvailableBytes != size-u.UsedBytes) {
			fix.t.Errorf("%s: use is %+v, want a total of %d", volumeType, u, size)
		}
		fix.wantAllocated(v, u.UsedBytes)
	}
}

// wantAllocated checks that a backend that enforces sizes also counts, and that another one does
// not invent a number.
func (fix *backendFixture) wantAllocated(v made, want int64) {
	fix.t.Helper()
	counter, counts := fix.backend.(backend.Counter)
	if !counts && !fix.backend.Enforces() {
		return
	}
	if !counts {
		fix.t.Fatal("it enforces sizes, and counts nothing")
	}
	got, err := counter.Allocated(v.data, v.quotaID)
	if fix.backend.Enforces() && (got != want || err != nil) {
		fix.t.Errorf("it has %d bytes of the disk, %v, want %d", got, err, want)
	}
	if !fix.backend.Enforces() && !errors.Is(err, errors.ErrUnsupported) {
		fix.t.Errorf("it has %d bytes of the disk, %v, want ErrUnsupported", got, err)
	}
}

func testFullDirectory(fix *backendFixture) {
	v, neighbour := fix.make(volume.DirectoryOrCreate), fix.make(volume.DirectoryOrCreate)
	fixture.Must(fix.t, os.Mkdir(v.file("sub"), 0o755))
	fix.wantRoom(v.file("f"), size/2)
	fix.fill(v.file("sub/f"), size/2)
	fix.wantFull(v.file("another"))
	fix.wantRoom(neighbour.file("f"), size/2)
	fixture.Must(fix.t, os.Remove(v.file("f")))
	fix.eventuallyRoom(v.file("again"), size/4)
	fix.fill(neighbour.file("f"), size/2)
	if u := fix.usage(neighbour); u.UsedBytes > size || u.AvailableBytes > fix.subject.Slack+block {
		fix.t.Errorf("a full volume has %+v", u)
	}
}

// eventuallyRoom writes, and waits for filesystems that free deleted files in the background.
func (fix *backendFixture) eventuallyRoom(path string, bytes int64) {
	fix.t.Helper()
	var err error
	fixture.Eventually(fix.t, "what was freed can be written again", func() bool {
		var written int64
		written, err = grow(path, bytes)
		bytes -= written
		return err == nil
	}, func() any { return err })
}

func testFullFile(fix *backendFixture) {
	v, neighbour := fix.make(volume.FileOrCreate), fix.make(volume.FileOrCreate)
	fix.fill(v.path, 0)
	fix.wantRoom(neighbour.path, size/2)
	fixture.Must(fix.t, fix.backend.Resize(v.dir, v.quotaID, v.spec, size+fix.subject.TruncateNeeds))
	fixture.Must(fix.t, os.Truncate(v.path, 0))
	fixture.Must(fix.t, fix.backend.Resize(v.dir, v.quotaID, v.spec, size))
	fix.eventuallyRoom(v.path, size/2)
}

func testEscapes(fix *backendFixture) {
	v := fix.make(volume.DirectoryOrCreate)
	fix.wantRoom(v.file("f"), size/2)
	fixture.Must(fix.t, os.Link(v.file("f"), v.file("link")))
	fixture.Must(fix.t, os.Remove(v.file("f")))
	fixture.Must(fix.t, os.Mkdir(v.file("sub"), 0o755))
	fixture.Must(fix.t, os.Rename(v.file("link"), v.file("sub/renamed")))
	f, err := os.Open(v.file("sub/renamed"))
	fixture.Must(fix.t, err)
	fixture.Must(fix.t, os.Remove(v.file("sub/renamed")))
	fix.fill(v.file("f"), size/2)
	fix.wantFull(v.file("g"))
	f.Close()
	fix.eventuallyRoom(v.file("g"), size/2-fix.subject.Slack)
}

// A pod cannot move files between its volumes, because they are two mounts. The filesystem refuses
// it as well.
func testMoves(fix *backendFixture) {
	v, other := fix.make(volume.DirectoryOrCreate), fix.make(volume.DirectoryOrCreate)
	fix.wantRoom(v.file("f"), mib)
	if err := os.Link(v.file("f"), other.file("f")); !errors.Is(err, unix.EXDEV) {
		fix.t.Errorf("link from one volume into another: %v, want EXDEV", err)
	}
	if err := os.Rename(v.file("f"), other.file("f")); !errors.Is(err, unix.EXDEV) {
		fix.t.Errorf("rename from one volume into another: %v, want EXDEV", err)
	}
}

func testResize(fix *backendFixture) {
	for _, volumeType := range volume.ManagedTypes() {
		v := fix.make(volumeType)
		fix.fill(v.file("f"), 0)
		fixture.Must(fix.t, fix.backend.Resize(v.dir, v.quotaID, v.spec, 2*size))
		fix.wantRoom(v.file("f"), size-fix.subject.Slack)
		// As after an expansion that failed.
		fixture.Must(fix.t, fix.backend.Resize(v.dir, v.quotaID, v.spec, size))
		fix.wantFull(v.file("f"))
		if u := fix.usage(v); u.TotalBytes != size || u.AvailableBytes != 0 {
			fix.t.Errorf("%s: with more in it than it may have, use is %+v", volumeType, u)
		}
	}
}

const inodes = 8

// makeFew makes a volume of that many inodes, its directory among them; false if the backend cannot
// limit them.
func (fix *backendFixture) makeFew() (made, bool) {
	fix.t.Helper()
	if !fix.backend.LimitsInodes() {
		fix.t.Log("nothing to see: this backend limits no inodes")
		return made{}, false
	}
	v := fix.makeOf(fix.backend,
		volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755, Inodes: inodes})
	if n, err := v.makeFiles(2 * inodes); n != inodes-1 || !isFull(err) {
		fix.t.Errorf("%d files were made in a volume of %d inodes: %v", n, inodes, err)
	}
	return v, true
}

func testInodes(fix *backendFixture) {
	v, ok := fix.makeFew()
	if !ok {
		return
	}
	if u := fix.usage(v); u.TotalInodes != inodes || u.UsedInodes != inodes ||
		u.AvailableInodes != 0 ||
		u.AvailableBytes == 0 {
		fix.t.Errorf("with all inodes taken use is %+v", u)
	}
	fixture.Must(fix.t, fix.backend.Resize(v.dir, v.quotaID, v.spec, 2*size))
	if n, err := v.makeFiles(1); n > 0 || !isFull(err) {
		fix.t.Errorf("after an expansion there was room for %d files: %v", n, err)
	}
	fixture.Must(fix.t, os.Remove(v.file("0")))
	fixture.Eventually(fix.t, "a file has room after one was removed", func() bool {
		n, _ := v.makeFiles(1)
		return n == 1
	})
}

func testInodesRestart(fix *backendFixture) {
	v, ok := fix.makeFew()
	if !ok {
		return
	}
	if repaired, err := fix.reopen().Adopt(v.dir, v.quotaID, v.spec, size); repaired || err != nil {
		fix.t.Errorf("repaired %t, %v; want as it was", repaired, err)
	}
	v.spec.Inodes = 2 * inodes
	if repaired, err := fix.reopen().Adopt(v.dir, v.quotaID, v.spec, size); !repaired || err != nil {
		fix.t.Errorf("another number in the record: repaired %t, %v", repaired, err)
	}
	if n, err := v.makeFiles(inodes); n != inodes || err != nil {
		fix.t.Errorf("%d of %d more files were made: %v", n, inodes, err)
	}
}

func testRestart(fix *backendFixture) {
	for _, volumeType := range volume.ManagedTypes() {
		v := fix.make(volumeType)
		fix.wantRoom(v.file("f"), size/2)
		if repaired, err := fix.reopen().Adopt(v.dir, v.quotaID, v.spec, size); repaired || err != nil {
			fix.t.Errorf("%s: repaired %t, %v; want as it was", volumeType, repaired, err)
		}
		fix.fill(v.file("f"), size/2)
		_, err := fix.backend.Adopt(v.dir, v.quotaID, v.spec, size)
		if !errors.Is(err, volume.ErrCorrupt) {
			fix.t.Errorf("%s: adopted twice: %v", volumeType, err)
		}
	}
}

func testRepair(fix *backendFixture) {
	for _, volumeType := range volume.ManagedTypes() {
		v := fix.make(volumeType)
		// As after a crash before the record was written.
		fixture.Must(fix.t, fix.backend.Resize(v.dir, v.quotaID, v.spec, 3*size))
		if repaired, err := fix.reopen().Adopt(v.dir, v.quotaID, v.spec, size); !repaired || err != nil {
			fix.t.Errorf("%s: repaired %t, %v", volumeType, repaired, err)
		}
		fix.fill(v.file("f"), 0)
	}
}

func testLift(fix *backendFixture) {
	for _, volumeType := range volume.ManagedTypes() {
		v := fix.make(volumeType)
		fix.backend = fix.subject.OpenLifted(fix.t, fix.root)
		if fix.backend.Enforces() || fix.backend.LimitsInodes() {
			fix.t.Error("enforces, with quotas off")
		}
		_, err := fix.backend.Adopt(v.dir, v.quotaID, v.spec, size)
		fixture.Must(fix.t, err)
		fixture.Must(fix.t, fix.backend.Resize(v.dir, v.quotaID, v.spec, size))
		fix.wantRoom(v.file("f"), 2*size)
		free := fix.make(volumeType)
		fix.wantRoom(free.file("f"), 2*size)
		if repaired, err := fix.reopen().Adopt(v.dir, v.quotaID, v.spec, size); !repaired || err != nil {
			fix.t.Errorf("%s: quotas on again: repaired %t, %v", volumeType, repaired, err)
		}
		fix.wantFull(v.file("f"))
		if _, err := fix.backend.Adopt(free.dir, free.quotaID, free.spec, size); !errors.Is(
			err, volume.ErrUnavailable,
		) {
			fix.t.Errorf("%s: what was made with quotas off: %v, want ErrUnavailable", volumeType, err)
		}
	}
}

// On XFS and ext4 a limit of ID 0 would be the limit of every project without its own.
func testUntagged(fix *backendFixture) {
	v := fix.make(volume.DirectoryOrCreate)
	plain := fix.mkdir()
	f, err := backend.MakeEmpty(plain, spec(volume.DirectoryOrCreate))
	fixture.Must(fix.t, err)
	f.Close()
	fixture.Must(fix.t, fix.backend.Resize(plain, 0, v.spec, mib))
	fix.wantRoom(filepath.Join(plain.Name(), backend.Data, "f"), size)
	data, err := backend.OpenData(plain, unix.O_PATH)
	fixture.Must(fix.t, err)
	defer data.Close()
	_, err = fix.backend.Usage(data, 0)
	fixture.Must(fix.t, err)
	fixture.Must(fix.t, fix.backend.Release(0))
	fix.fill(v.file("f"), 0)
}

func testQuotaIDs(fix *backendFixture) {
	seen := map[volume.QuotaID]bool{}
	// The second backend knows no IDs of the first, like another pool, or a driver that has not read
	// the records yet.
	for _, b := range []backend.Backend{fix.backend, fix.subject.Open(fix.t, fix.root)} {
		for range 20 {
			v := fix.makeBy(b, volume.DirectoryOrCreate)
			if v.quotaID == 0 || seen[v.quotaID] {
				fix.t.Errorf("quotaID %d was given out twice", v.quotaID)
			}
			seen[v.quotaID] = true
		}
	}
}

func testReserved(fix *backendFixture) {
	v := fix.make(volume.DirectoryOrCreate)
	fix.reopen()
	if got := fix.backend.ReserveQuotaID(v.dir, 0); got != v.quotaID { // its record is gone
		fix.t.Errorf("the data says that its quota ID is %d, want %d", got, v.quotaID)
	}
	if got := fix.backend.ReserveQuotaID(v.dir, v.quotaID); got != 0 {
		fix.t.Errorf("reserved a second time: %d", got)
	}
	fix.reopen()
	if got := fix.backend.ReserveQuotaID(v.dir, v.quotaID); got != v.quotaID {
		fix.t.Errorf("reserved %d, want %d", got, v.quotaID)
	}
	fixture.Must(fix.t, v.data.Close())
	fixture.Must(fix.t, fix.backend.Discard(v.dir))
	rest, err := os.OpenRoot(v.dir.Name())
	fixture.Must(fix.t, err)
	defer rest.Close()
	fixture.Must(fix.t, rest.RemoveAll(backend.Data))
	if next := fix.make(volume.DirectoryOrCreate); next.quotaID == v.quotaID {
		fix.t.Error("a quota ID was given out before its release")
	}
	fix.release(v.quotaID)
}

func testShownSize(fix *backendFixture) {
	if !fix.subject.ShowsSize {
		return
	}
	v := fix.make(volume.DirectoryOrCreate)
	fix.wantRoom(v.file("f"), size/2)
	fixture.Must(fix.t, unix.Syncfs(int(fix.root.Fd())))
	var st unix.Statfs_t
	fixture.Must(fix.t, unix.Statfs(v.path, &st))
	if total := int64(st.Blocks) * st.Bsize; total != size { //nolint:gosec // a disk is small
		fix.t.Errorf("df shows a size of %d, want %d", total, size)
	}
	free := int64(st.Bavail) * st.Bsize //nolint:gosec // as above
	if free > size/2 || free < size/2-fix.subject.Slack-256<<10 {
		fix.t.Errorf("df shows %d available of %d", free, size)
	}
}
