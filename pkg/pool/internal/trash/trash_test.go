package trash

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

const recordFile = "record.json"

// patience is how long a test waits for a purge on a busy machine.
const patience = time.Minute

// quotas is a backend that releases a quota ID at the second try, as a filesystem that has not
// finished at the first.
type quotas struct {
	discarding func() // if set, called before data is removed

	mu      sync.Mutex
	asked   map[volume.QuotaID]int
	foreign int64 // bytes that others have charged to every quota ID
}

func (q *quotas) Discard(openat.Dir) error {
	if q.discarding != nil {
		q.discarding()
	}
	return nil
}

func (q *quotas) Release(id volume.QuotaID) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asked[id]++; id != 0 && (q.asked[id] == 1 || q.foreign > 0) {
		return backend.ErrPending
	}
	return nil
}

func (q *quotas) Retire(volume.QuotaID) (int64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.foreign, nil
}

func (q *quotas) charge(foreign int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.foreign = foreign
}

// fixture is a trash in a directory of the test, with volumes/ beside it.
type fixture struct {
	*Trash

	t       *testing.T
	root    string
	volumes openat.Dir
	backend *quotas
	purged  chan Entry
}

// newFixture returns a trash below root that is not started.
func newFixture(t *testing.T, root string) *fixture {
	t.Helper()
	f := &fixture{
		Trash: New(Options{}), t: t, root: root,
		backend: &quotas{asked: make(map[volume.QuotaID]int)},
		purged:  make(chan Entry, 100),
	}
	f.Dir, f.Tmp, f.volumes = f.open("trash"), f.open("tmp"), f.open("volumes")
	f.Sync = func(files ...*os.File) error {
		var errs []error
		for _, file := range files {
			errs = append(errs, file.Sync())
		}
		return errors.Join(errs...)
	}
	f.Backend, f.Records = f.backend, []string{recordFile}
	f.CheckDetached = func(openat.Dir, string) error { return nil }
	f.Yield = func(context.Context) error { return nil }
	f.Purged = func(_ context.Context, e Entry) { f.purged <- e }
	f.RetryAfter = 10 * time.Millisecond
	t.Cleanup(f.Stop)
	return f
}

func (f *fixture) open(name string) openat.Dir {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Join(f.root, name), 0o700); err != nil {
		f.t.Fatal(err)
	}
	root, err := openat.OpenDir(f.root)
	if err != nil {
		f.t.Fatal(err)
	}
	defer root.Close()
	d, err := root.OpenDir(name)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { d.Close() })
	return d
}

// plant makes an entry of one of the directories, with data and a record.
func (f *fixture) plant(in, name string) {
	f.t.Helper()
	data := filepath.Join(f.root, in, name, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		f.t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(data, "file"), filepath.Join(data, "..", recordFile)} {
		if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}

// take deletes an entry of volumes/.
func (f *fixture) take(name string) Entry {
	f.t.Helper()
	e, err := f.Delete(f.volumes, name, name+".1")
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.SyncDeleted(f.volumes, name); err != nil {
		f.t.Fatal(err)
	}
	return e
}

// wantPurged waits until the next entry is purged, and checks that it is this one.
func (f *fixture) wantPurged(name string) Entry {
	f.t.Helper()
	select {
	case e := <-f.purged:
		if e.Name != name {
			f.t.Errorf("%s is purged, want %s", e.Name, name)
		}
		return e
	case <-time.After(patience):
		f.t.Fatalf("%s is not purged", name)
		return Entry{}
	}
}

func (f *fixture) wantEntries(in string, want ...string) {
	f.t.Helper()
	list, err := os.ReadDir(filepath.Join(f.root, in))
	if err != nil {
		f.t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		f.t.Errorf("%s/ has %q, want %q", in, got, want)
	}
}

func TestDeletedEntryIsPurgedAndGivenBackOnce(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.Start(t.Context())
	f.plant("volumes", "v")
	e := f.take("v")
	f.wantEntries("volumes")
	f.wantEntries("trash", "v.1")
	e.Bytes, e.QuotaID = 7, 8
	uncharged := 0
	e.Uncharge = func() error {
		if uncharged++; uncharged == 1 {
			return backend.ErrPending
		}
		return nil
	}
	f.Queue(e)
	if got := f.wantPurged("v.1"); got.Bytes != 7 {
		t.Errorf("%d bytes are given back, want 7", got.Bytes)
	}
	f.wantEntries("trash")
	f.Stop()
	if len(f.purged) > 0 || uncharged != 2 || f.backend.asked[8] != 2 {
		t.Errorf("given back %d times more; uncharged %d times, want 2; released %d times, want 2",
			len(f.purged), uncharged, f.backend.asked[8])
	}
}

// A pod can charge a file of its own to the quota ID of a deleted volume. The entry goes all the
// same, and its bytes come back as the file shrinks. Another volume that has the name by then is
// not touched.
func TestEntryToWhichOthersChargeTheirFilesIsRemovedOnce(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.Start(t.Context())
	f.plant("volumes", "v")
	f.backend.charge(3)
	// It is deleted in place, and was asked for often.
	f.Queue(Entry{In: f.volumes, Name: "v", Bytes: 7, QuotaID: 8, polls: longPolls})
	for _, step := range []struct {
		foreign, freed int64
	}{{3, 4}, {1, 2}, {0, 1}} {
		f.backend.charge(step.foreign)
		if got := f.wantHurried("v"); got.Bytes != step.freed {
			t.Errorf("%d bytes are given back when others have %d, want %d", got.Bytes, step.foreign,
				step.freed)
		}
		if step.foreign == 3 {
			f.wantEntries("volumes")
			if n := f.Retired(); n != 1 {
				t.Errorf("%d quota IDs are retired, want 1", n)
			}
			f.plant("volumes", "v")
		}
	}
	f.Stop()
	f.wantEntries("volumes", "v")
	if n := f.Retired(); n != 0 || len(f.purged) > 0 {
		t.Errorf("%d quota IDs are retired at the end; given back %d times more", n, len(f.purged))
	}
}

// wantHurried is wantPurged of an entry that waits for something.
func (f *fixture) wantHurried(name string) Entry {
	f.t.Helper()
	for deadline := time.Now().Add(patience); len(f.purged) == 0 && time.Now().Before(deadline); {
		f.queue.expireAll()
		time.Sleep(time.Millisecond)
	}
	return f.wantPurged(name)
}

func TestEntryThatSomebodyHasRemovedIsGivenBack(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.Retention = time.Hour
	f.Start(t.Context())
	f.Queue(f.take("absent"))
	f.wantPurged("absent.1")
}

// rename(2) would replace an empty directory without an error.
func TestEntryOfTheTrashIsNotReplaced(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.plant("volumes", "v")
	there := filepath.Join(f.root, "trash", "v.1")
	if err := os.Mkdir(there, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Delete(f.volumes, "v", "v.1"); !errors.Is(err, os.ErrExist) {
		t.Errorf("take: %v, want EEXIST", err)
	}
	f.wantEntries("volumes", "v")
	f.wantEntries("trash/v.1")
}

func TestEntryOfTheTrashIsKeptForItsRetention(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.Retention = time.Hour
	f.Start(t.Context())
	for _, in := range []string{"volumes", "tmp"} {
		f.plant(in, in)
	}
	f.Queue(f.take("volumes"))
	f.Queue(Entry{In: f.Tmp, Name: "tmp"})
	f.wantPurged("tmp") // the entry was unfinished
	f.wantEntries("trash", "volumes.1")
	f.queue.expireAll()
	f.wantPurged("volumes.1")
}

func TestStartGoesOnWithWhatIsLeft(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.Retention = time.Hour
	for _, e := range []struct{ in, name string }{
		{"trash", "kept.1"}, {"tmp", "half.1"}, {"volumes", "in-place"}, {"volumes", "healthy"},
	} {
		f.plant(e.in, e.name)
	}
	if err := deleteInPlace(f.volumes, "in-place"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"in-place": true, "healthy": false, "absent": false} {
		if got, err := HasTombstone(f.volumes, name); got != want || err != nil {
			t.Errorf("%s is marked: %v, %v, want %v", name, got, err, want)
		}
	}
	f.FoundInPlace(f.volumes, "in-place")
	left, err := f.Leftovers()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		f.Queue(e)
	}
	f.Start(t.Context())
	purged := []string{(<-f.purged).Name, (<-f.purged).Name}
	slices.Sort(purged)
	if want := []string{"half.1", "in-place"}; !slices.Equal(purged, want) {
		t.Errorf("purged are %q, want %q", purged, want)
	}
	f.wantEntries("trash", "kept.1")
	f.wantEntries("volumes", "healthy")
}

func TestEntryInUseWaitsForAnotherTry(t *testing.T) {
	f := newFixture(t, t.TempDir())
	inUse := make(chan error, 1)
	inUse <- volume.ErrInUse
	f.CheckDetached = func(openat.Dir, string) error {
		select {
		case err := <-inUse:
			return err
		default:
			return nil
		}
	}
	f.RetryAfter = time.Hour
	f.Start(t.Context())
	f.plant("volumes", "v")
	f.Queue(f.take("v"))
	for deadline := time.Now().Add(patience); f.Failures() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no failure is counted")
		}
	}
	f.wantEntries("trash", "v.1")
	f.queue.expireAll()
	f.wantPurged("v.1")
	if n := f.Failures(); n != 0 {
		t.Errorf("%d failures are counted when the entry is gone", n)
	}
}

// The mount table is read again for each try, and at the end of a retention, because it may have
// changed since.
func TestEntryThatIsMountedIsPurgedWhenItNoLongerIs(t *testing.T) {
	disks.RequireRoot(t)
	for _, tc := range []struct {
		title     string
		retention time.Duration
	}{
		{"mounted when it is deleted", 0},
		{"mounted out of the trash", 300 * time.Millisecond},
	} {
		t.Run(tc.title, func(t *testing.T) {
			f := newFixture(t, t.TempDir())
			f.Retention = tc.retention
			f.locate()
			f.Start(t.Context())
			f.plant("volumes", "v")
			elsewhere := t.TempDir()
			t.Cleanup(func() { _ = unix.Unmount(elsewhere, unix.MNT_DETACH) })
			if tc.retention == 0 {
				f.bind("volumes/v/data", elsewhere)
			}
			f.Queue(f.take("v"))
			// as the purge of another entry does
			if _, err := f.mounts.readAfter(time.Now()); err != nil {
				t.Fatal(err)
			}
			if tc.retention > 0 {
				f.bind("trash/v.1/data", elsewhere)
			}
			for deadline := time.Now().Add(patience); f.Failures() == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the purge does not stop at the mount")
				}
			}
			if got, err := os.ReadFile(filepath.Join(elsewhere, "file")); string(got) != "content" {
				t.Fatalf("what is mounted has %q, %v", got, err)
			}
			if err := unix.Unmount(elsewhere, 0); err != nil {
				t.Fatal(err)
			}
			f.wantPurged("v.1")
		})
	}
}

// locate sets the location of the trash's directory in its filesystem.
func (f *fixture) locate() {
	f.t.Helper()
	root, err := os.Open(f.root)
	if err != nil {
		f.t.Fatal(err)
	}
	defer root.Close()
	if f.Location, err = mount.Locate(root); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) bind(source, target string) {
	f.t.Helper()
	err := unix.Mount(filepath.Join(f.root, source), target, "", unix.MS_BIND, "")
	if err != nil {
		f.t.Fatal(err)
	}
}

// A purge may begin despite a retention, because the disk is full or the retention was configured
// after the delete. If the process dies during such a purge, the remaining entry is not whole.
func TestPurgeThatHasBegunGoesOnWhateverTheRetention(t *testing.T) {
	for _, tc := range []struct {
		title     string
		retention time.Duration // of the first process
	}{
		{"switched on later", 0},
		{"cut short by a full disk", time.Hour},
	} {
		t.Run(tc.title, func(t *testing.T) {
			f := newFixture(t, t.TempDir())
			f.Retention = tc.retention
			f.plantMany("volumes", "v", 2*yieldAfter)
			reached := make(chan struct{})
			f.Yield = func(ctx context.Context) error {
				close(reached)
				<-ctx.Done()
				return ctx.Err()
			}
			f.Start(t.Context())
			f.Queue(f.take("v"))
			f.queue.expireAll()
			<-reached
			f.Stop()
			f.plant("trash", "whole.1")
			next := newFixture(t, f.root)
			next.Retention = time.Hour
			left, err := next.Leftovers()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range left {
				next.Queue(e)
			}
			next.Start(t.Context())
			next.wantPurged("v.1")
			next.wantEntries("trash", "whole.1")
		})
	}
}

// Before the purge removes the first file, it marks the entry. The mark is durable if a retention
// lets people take entries out of the trash.
func TestPurgeSaysOnDiskThatItBeginsBeforeItRemovesAnything(t *testing.T) {
	for _, tc := range []struct {
		title     string
		retention time.Duration
		wantSyncs int
	}{
		{"with a retention", time.Hour, 1},
		{"without", 0, 0},
	} {
		t.Run(tc.title, func(t *testing.T) {
			f := newFixture(t, t.TempDir())
			f.Retention = tc.retention
			f.plant("volumes", "v")
			e := f.take("v")
			path := filepath.Join(f.root, "trash", "v.1")
			var syncs atomic.Int64
			f.Sync = func(...*os.File) error {
				syncs.Add(1)
				if _, err := os.Stat(filepath.Join(path, "data", "file")); err != nil {
					t.Errorf("when the mark is synced: %v", err)
				}
				return nil
			}
			f.backend.discarding = func() {
				if marked, err := HasTombstone(f.Dir, "v.1"); !marked || err != nil {
					t.Errorf("when the data goes the entry is marked: %v, %v", marked, err)
				}
			}
			f.Start(t.Context())
			f.Queue(e)
			f.queue.expireAll()
			f.wantPurged("v.1")
			if n := syncs.Load(); n != int64(tc.wantSyncs) {
				t.Errorf("%d syncs, want %d", n, tc.wantSyncs)
			}
		})
	}
}

// plantMany is plant with that many more files.
func (f *fixture) plantMany(in, name string, files int) {
	f.t.Helper()
	f.plant(in, name)
	for i := range files {
		path := filepath.Join(f.root, in, name, "data", strconv.Itoa(i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}
