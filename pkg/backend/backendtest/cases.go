package backendtest

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func testModeAndOwner(w *world) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for _, s := range []volume.Spec{
		{Type: volume.DirectoryOrCreate, Mode: 0o755},
		{Type: volume.DirectoryOrCreate, Mode: 0o3777, UID: 1000, GID: 2000},
		{Type: volume.FileOrCreate, Mode: 0o644},
		{Type: volume.FileOrCreate, Mode: 0o602, UID: 4294967294, GID: 4294967294},
	} {
		dir := w.mkdir()
		f, _, err := w.backend.Make(dir, s, size)
		w.must(err)
		f.Close()
		data, err := backend.OpenData(dir, unix.O_PATH)
		w.must(err)
		var st unix.Stat_t
		w.must(unix.Fstat(int(data.Fd()), &st))
		data.Close()
		if got := (volume.Spec{Type: typeOf(st), Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}); got != s {
			w.t.Errorf("made %+v, want %+v", got, s)
		}
	}
}

func typeOf(st unix.Stat_t) volume.Type {
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return volume.FileOrCreate
	}
	return volume.DirectoryOrCreate
}

func testFailedMake(w *world) {
	for _, volumeType := range volume.ManagedTypes() {
		v := w.make(volumeType)
		if f, quotaID, err := w.backend.Make(v.dir, spec(volumeType), size); err == nil || quotaID != 0 {
			w.t.Errorf("made %s over another one: %v, quota ID %d, %v", volumeType, f, quotaID, err)
		}
		w.wantRoom(v.file("f"), mib)
		if w.backend.Enforces() {
			w.fill(v.file("f"), mib)
		}
	}
}

func testRemove(w *world) {
	for _, volumeType := range volume.ManagedTypes() {
		v := w.make(volumeType)
		w.wantRoom(v.file("f"), mib)
		w.remove(v)
		names, err := os.ReadDir(v.dir.Name())
		if err != nil || len(names) > 0 {
			w.t.Errorf("after a removed %s there are %v, %v", volumeType, names, err)
		}
		w.must(w.backend.Discard(v.dir)) // of nothing
		w.release(v.quotaID)             // again
	}
}

func testUsage(w *world) {
	const written = 2 * mib
	for _, volumeType := range volume.ManagedTypes() {
		v := w.make(volumeType)
		before := w.usage(v)
		w.wantRoom(v.file("f"), written)
		u := w.usage(v)
		if got := u.UsedBytes - before.UsedBytes; got < written || got > written+w.subject.Slack+256<<10 {
			w.t.Errorf("%s: after %d bytes the use has grown by %d", volumeType, written, got)
		}
		if u.UsedBytes+u.AvailableBytes > u.TotalBytes {
			w.t.Errorf("%s: more used and available than there is: %+v", volumeType, u)
		}
		if w.backend.Enforces() && (u.TotalBytes != size || u.AvailableBytes != size-u.UsedBytes) {
			w.t.Errorf("%s: use is %+v, want a total of %d", volumeType, u, size)
		}
		w.wantAllocated(v, u.UsedBytes)
	}
}

// wantAllocated: who enforces counts, and what enforces nothing does not invent a number.
func (w *world) wantAllocated(v made, want int64) {
	w.t.Helper()
	counter, counts := w.backend.(backend.Counter)
	if !counts && !w.backend.Enforces() {
		return
	}
	if !counts {
		w.t.Fatal("it enforces sizes, and counts nothing")
	}
	got, err := counter.Allocated(v.data, v.quotaID)
	if w.backend.Enforces() && (got != want || err != nil) {
		w.t.Errorf("it has %d bytes of the disk, %v, want %d", got, err, want)
	}
	if !w.backend.Enforces() && !errors.Is(err, errors.ErrUnsupported) {
		w.t.Errorf("it has %d bytes of the disk, %v, want ErrUnsupported", got, err)
	}
}

func testFullDirectory(w *world) {
	v, neighbour := w.make(volume.DirectoryOrCreate), w.make(volume.DirectoryOrCreate)
	w.must(os.Mkdir(v.file("sub"), 0o755))
	w.wantRoom(v.file("f"), size/2)
	w.fill(v.file("sub/f"), size/2)
	w.wantFull(v.file("another"))
	w.wantRoom(neighbour.file("f"), size/2)
	w.must(os.Remove(v.file("f")))
	w.eventuallyRoom(v.file("again"), size/4)
	w.fill(neighbour.file("f"), size/2)
	if u := w.usage(neighbour); u.UsedBytes > size || u.AvailableBytes > w.subject.Slack+block {
		w.t.Errorf("a full volume has %+v", u)
	}
}

// eventuallyRoom allows for filesystems that free deleted files in the background.
func (w *world) eventuallyRoom(path string, bytes int64) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		written, err := grow(path, bytes)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("after freeing, %d of %d bytes were written: %v", written, bytes, err)
		}
		bytes -= written
	}
}

func testFullFile(w *world) {
	v, neighbour := w.make(volume.FileOrCreate), w.make(volume.FileOrCreate)
	w.fill(v.path, 0)
	w.wantRoom(neighbour.path, size/2)
	w.must(w.backend.Resize(v.dir, v.quotaID, v.spec, size+w.subject.TruncateNeeds))
	w.must(os.Truncate(v.path, 0))
	w.must(w.backend.Resize(v.dir, v.quotaID, v.spec, size))
	w.eventuallyRoom(v.path, size/2)
}

func testEscapes(w *world) {
	v := w.make(volume.DirectoryOrCreate)
	w.wantRoom(v.file("f"), size/2)
	w.must(os.Link(v.file("f"), v.file("link")))
	w.must(os.Remove(v.file("f")))
	w.must(os.Mkdir(v.file("sub"), 0o755))
	w.must(os.Rename(v.file("link"), v.file("sub/renamed")))
	f, err := os.Open(v.file("sub/renamed"))
	w.must(err)
	w.must(os.Remove(v.file("sub/renamed")))
	w.fill(v.file("f"), size/2)
	w.wantFull(v.file("g"))
	f.Close()
	w.eventuallyRoom(v.file("g"), size/2-w.subject.Slack)
}

// A pod with two volumes sees them as two mounts; this is the filesystem's own defence.
func testMoves(w *world) {
	v, other := w.make(volume.DirectoryOrCreate), w.make(volume.DirectoryOrCreate)
	w.wantRoom(v.file("f"), mib)
	if err := os.Link(v.file("f"), other.file("f")); !errors.Is(err, unix.EXDEV) {
		w.t.Errorf("link from one volume into another: %v, want EXDEV", err)
	}
	if err := os.Rename(v.file("f"), other.file("f")); !errors.Is(err, unix.EXDEV) {
		w.t.Errorf("rename from one volume into another: %v, want EXDEV", err)
	}
}

func testResize(w *world) {
	for _, volumeType := range volume.ManagedTypes() {
		v := w.make(volumeType)
		w.fill(v.file("f"), 0)
		w.must(w.backend.Resize(v.dir, v.quotaID, v.spec, 2*size))
		w.wantRoom(v.file("f"), size-w.subject.Slack)
		// an expansion that failed is taken back
		w.must(w.backend.Resize(v.dir, v.quotaID, v.spec, size))
		w.wantFull(v.file("f"))
		if u := w.usage(v); u.TotalBytes != size || u.AvailableBytes != 0 {
			w.t.Errorf("%s: with more in it than it may have, use is %+v", volumeType, u)
		}
	}
}

const inodes = 8

// makeFew makes a volume of so many inodes, its directory among them; false where they cannot be
// limited.
func (w *world) makeFew() (made, bool) {
	w.t.Helper()
	if !w.backend.LimitsInodes() {
		w.t.Log("nothing to see: this backend limits no inodes")
		return made{}, false
	}
	v := w.makeOf(w.backend, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755, Inodes: inodes})
	if n, err := v.makeFiles(2 * inodes); n != inodes-1 || !isFull(err) {
		w.t.Errorf("%d files were made in a volume of %d inodes: %v", n, inodes, err)
	}
	return v, true
}

func testInodes(w *world) {
	v, ok := w.makeFew()
	if !ok {
		return
	}
	if u := w.usage(v); u.TotalInodes != inodes || u.UsedInodes != inodes || u.AvailableInodes != 0 ||
		u.AvailableBytes == 0 {
		w.t.Errorf("with all inodes taken use is %+v", u)
	}
	w.must(w.backend.Resize(v.dir, v.quotaID, v.spec, 2*size))
	if n, err := v.makeFiles(1); n > 0 || !isFull(err) {
		w.t.Errorf("after an expansion there was room for %d files: %v", n, err)
	}
	w.must(os.Remove(v.file("0")))
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		n, err := v.makeFiles(1)
		if n == 1 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("after a file was removed there is room for none: %v", err)
		}
	}
}

func testInodesRestart(w *world) {
	v, ok := w.makeFew()
	if !ok {
		return
	}
	if repaired, err := w.reopen().Adopt(v.dir, v.quotaID, v.spec, size); repaired || err != nil {
		w.t.Errorf("repaired %t, %v; want as it was", repaired, err)
	}
	v.spec.Inodes = 2 * inodes
	if repaired, err := w.reopen().Adopt(v.dir, v.quotaID, v.spec, size); !repaired || err != nil {
		w.t.Errorf("another number in the record: repaired %t, %v", repaired, err)
	}
	if n, err := v.makeFiles(inodes); n != inodes || err != nil {
		w.t.Errorf("%d of %d more files were made: %v", n, inodes, err)
	}
}

func testRestart(w *world) {
	for _, volumeType := range volume.ManagedTypes() {
		v := w.make(volumeType)
		w.wantRoom(v.file("f"), size/2)
		if repaired, err := w.reopen().Adopt(v.dir, v.quotaID, v.spec, size); repaired || err != nil {
			w.t.Errorf("%s: repaired %t, %v; want as it was", volumeType, repaired, err)
		}
		w.fill(v.file("f"), size/2)
		if _, err := w.backend.Adopt(v.dir, v.quotaID, v.spec, size); !errors.Is(err, volume.ErrCorrupt) {
			w.t.Errorf("%s: adopted twice: %v", volumeType, err)
		}
	}
}

func testRepair(w *world) {
	for _, volumeType := range volume.ManagedTypes() {
		v := w.make(volumeType)
		// a crash came before the record said so
		w.must(w.backend.Resize(v.dir, v.quotaID, v.spec, 3*size))
		if repaired, err := w.reopen().Adopt(v.dir, v.quotaID, v.spec, size); !repaired || err != nil {
			w.t.Errorf("%s: repaired %t, %v", volumeType, repaired, err)
		}
		w.fill(v.file("f"), 0)
	}
}

func testLift(w *world) {
	for _, volumeType := range volume.ManagedTypes() {
		v := w.make(volumeType)
		w.backend = w.subject.OpenLifted(w.t, w.root)
		if w.backend.Enforces() || w.backend.LimitsInodes() {
			w.t.Error("enforces, with quotas off")
		}
		_, err := w.backend.Adopt(v.dir, v.quotaID, v.spec, size)
		w.must(err)
		w.must(w.backend.Resize(v.dir, v.quotaID, v.spec, size))
		w.wantRoom(v.file("f"), 2*size)
		free := w.make(volumeType)
		w.wantRoom(free.file("f"), 2*size)
		if repaired, err := w.reopen().Adopt(v.dir, v.quotaID, v.spec, size); !repaired || err != nil {
			w.t.Errorf("%s: quotas on again: repaired %t, %v", volumeType, repaired, err)
		}
		w.wantFull(v.file("f"))
		if _, err := w.backend.Adopt(free.dir, free.quotaID, free.spec, size); !errors.Is(
			err, volume.ErrUnavailable,
		) {
			w.t.Errorf("%s: what was made with quotas off: %v, want ErrUnavailable", volumeType, err)
		}
	}
}

// On XFS and ext4 the limit of ID 0 would be that of every project that has none.
func testUntagged(w *world) {
	v := w.make(volume.DirectoryOrCreate)
	plain := w.mkdir()
	f, err := backend.MakeEmpty(plain, spec(volume.DirectoryOrCreate))
	w.must(err)
	f.Close()
	w.must(w.backend.Resize(plain, 0, v.spec, mib))
	w.wantRoom(filepath.Join(plain.Name(), backend.Data, "f"), size)
	data, err := backend.OpenData(plain, unix.O_PATH)
	w.must(err)
	defer data.Close()
	_, err = w.backend.Usage(data, 0)
	w.must(err)
	w.must(w.backend.Release(0))
	w.fill(v.file("f"), 0)
}

func testQuotaIDs(w *world) {
	seen := map[volume.QuotaID]bool{}
	// The second knows nothing of the first's, like another pool, or a start before it has read the
	// records.
	for _, b := range []backend.Backend{w.backend, w.subject.Open(w.t, w.root)} {
		for range 20 {
			v := w.makeBy(b, volume.DirectoryOrCreate)
			if v.quotaID == 0 || seen[v.quotaID] {
				w.t.Errorf("quotaID %d was given out twice", v.quotaID)
			}
			seen[v.quotaID] = true
		}
	}
}

func testHold(w *world) {
	v := w.make(volume.DirectoryOrCreate)
	w.reopen()
	if got := w.backend.Hold(v.dir, 0); got != v.quotaID { // its record is gone
		w.t.Errorf("the data says that its quota ID is %d, want %d", got, v.quotaID)
	}
	if got := w.backend.Hold(v.dir, v.quotaID); got != 0 {
		w.t.Errorf("held a second time: %d", got)
	}
	w.reopen()
	if got := w.backend.Hold(v.dir, v.quotaID); got != v.quotaID {
		w.t.Errorf("holds %d, want %d", got, v.quotaID)
	}
	w.must(v.data.Close())
	w.must(w.backend.Discard(v.dir))
	rest, err := os.OpenRoot(v.dir.Name())
	w.must(err)
	defer rest.Close()
	w.must(rest.RemoveAll(backend.Data))
	if next := w.make(volume.DirectoryOrCreate); next.quotaID == v.quotaID {
		w.t.Error("a quota ID was given out before its release")
	}
	w.release(v.quotaID)
}

func testShownSize(w *world) {
	if !w.subject.ShowsSize {
		return
	}
	v := w.make(volume.DirectoryOrCreate)
	w.wantRoom(v.file("f"), size/2)
	w.must(unix.Syncfs(int(w.root.Fd())))
	var st unix.Statfs_t
	w.must(unix.Statfs(v.path, &st))
	if total := int64(st.Blocks) * st.Bsize; total != size { //nolint:gosec // a disk is small
		w.t.Errorf("df shows a size of %d, want %d", total, size)
	}
	if free := int64(st.Bavail) * st.Bsize; free > size/2 ||
		free < size/2-w.subject.Slack-256<<10 { //nolint:gosec // as above
		w.t.Errorf("df shows %d available of %d", free, size)
	}
}
