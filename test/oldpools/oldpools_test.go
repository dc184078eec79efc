// Package oldpools holds the driver to a promise: a pool that an older version made opens, and
// everything in it can be used. README.md says how the archives in testdata were made.
package oldpools

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestPoolsOfOlderVersionsCanBeUsed(t *testing.T) {
	disks.RequireRoot(t)
	driver := buildDriver(t)
	archives, err := filepath.Glob(filepath.Join("testdata", "*"+suffix))
	must(t, err)
	if len(archives) == 0 {
		t.Fatal("testdata has no archives")
	}
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			t.Parallel()
			useOldPool(t, driver, archive)
		})
	}
}

// useOldPool does with the pool of an archive everything that a cluster does.
func useOldPool(t *testing.T, driver, archive string) {
	t.Helper()
	f := newFixture(t, driver, disks.New(t, filesystemOf(t, archive), diskBytes))
	unpack(t, archive, f.dir)
	old := records(t, f.path(poolName))
	wantRecorded(f)
	// Kubelet still has the pod of the inline volume.
	must(t, os.MkdirAll(f.path("kubelet", "pods", podUID), 0o750))
	f.start()
	volumes, snapshots := recordedVolumes(), recordedSnapshots()
	t.Run("what was deleted is purged", func(t *testing.T) {
		f.in(t).wantEntries(len(volumes)+1, len(snapshots))
	})
	t.Run("everything is listed", func(t *testing.T) { wantListed(f.in(t)) })
	t.Run("records stay as they are", func(t *testing.T) { wantSameRecords(f.in(t), old) })
	for _, v := range volumes {
		t.Run("volume "+v.name, func(t *testing.T) { useVolume(f.in(t), v) })
	}
	for _, s := range snapshots {
		t.Run("snapshot "+s.name, func(t *testing.T) { useSnapshot(f.in(t), s) })
	}
	t.Run("inline volume", func(t *testing.T) { useInline(f.in(t)) })
	t.Run("everything can be deleted", func(t *testing.T) { deleteAll(f.in(t)) })
}

// wantRecorded makes sure that the archive has what the driver is to find.
func wantRecorded(f *fixture) {
	f.t.Helper()
	if got := f.entries("tmp"); len(got) != 1 {
		f.t.Errorf("tmp/ has %q, want one entry", got)
	}
	if got := f.entries("trash"); len(got) != 2 {
		f.t.Errorf("trash/ has %q, want two entries", got)
	}
	var st unix.Stat_t
	must(f.t, unix.Lstat(f.path(poolName, "volumes", "deleted-in-place"), &st))
	if st.Mode&0o7777 != deletedInPlace {
		f.t.Errorf("deleted-in-place has mode %#o, want %#o", st.Mode&0o7777, deletedInPlace)
	}
}

func wantListed(f *fixture) {
	f.t.Helper()
	var want []string
	for _, v := range recordedVolumes() {
		want = append(want, v.directory())
	}
	slices.Sort(want)
	got := slices.Sorted(maps.Keys(f.volumeIDs()))
	got = slices.DeleteFunc(got,
		func(name string) bool { return f.record(name)["name"] == inlineHandle() })
	if !slices.Equal(got, want) {
		f.t.Errorf("volumes are %q, want %q", got, want)
	}
	want = nil
	for _, s := range recordedSnapshots() {
		want = append(want, s.name)
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(f.snapshotIDs())); !slices.Equal(got, want) {
		f.t.Errorf("snapshots are %q, want %q", got, want)
	}
}

// wantSameRecords: a start changes no record.
func wantSameRecords(f *fixture, old map[string]map[string]any) {
	f.t.Helper()
	now := records(f.t, f.path(poolName))
	for path, record := range now {
		if keys := differences(old[path], record); len(keys) > 0 {
			f.t.Errorf("%s: the start changed %q: from %v to %v", path, keys, old[path], record)
		}
	}
}

func useVolume(f *fixture, v oldVolume) {
	f.t.Helper()
	id := f.volumeIDs()[v.directory()]
	if again := f.createAgain(v); again != id {
		f.t.Errorf("the repeated CreateVolume answers %q, want %q", again, id)
	}
	before := f.record(v.directory())
	f.publish(id, v)
	if v.unused {
		must(f.t, v.write(f.target(id)))
	}
	wantContent(f, id, v)
	f.unpublish(id)

	snapshotID := f.createSnapshot("new-of-"+v.directory(), id)
	f.useCopy(v,
		func(copied oldVolume) string { return f.mustCreate(copied, fromSnapshot(snapshotID)) })
	f.deleteSnapshot(snapshotID)
	f.useCopy(v, func(copied oldVolume) string { return f.mustCreate(copied, fromVolume(id)) })

	if !v.canGrow() {
		return
	}
	f.publish(id, v)
	f.expand(id, v, 2*v.bytes)
	wantContent(f, id, v)
	f.unpublish(id)
	wantExpanded(f, v, before)
}

// createAgain repeats the call that made the volume.
func (f *fixture) createAgain(v oldVolume) string {
	f.t.Helper()
	switch {
	case v.ofSnapshot:
		return f.mustCreate(v, fromSnapshot(f.snapshotIDs()[v.source]))
	case v.source != "":
		return f.mustCreate(v, fromVolume(f.volumeIDs()[volumeNamed(v.source).directory()]))
	default:
		return f.mustCreate(v, nil)
	}
}

// useCopy makes a copy of a volume, looks into it and deletes it.
func (f *fixture) useCopy(v oldVolume, create func(oldVolume) string) {
	f.t.Helper()
	copied := v.named("copy")
	copied.source, copied.ofSnapshot = v.name, false
	id := create(copied)
	f.publish(id, copied)
	wantContent(f, id, copied)
	f.unpublish(id)
	f.delete(id)
}

func wantContent(f *fixture, id string, v oldVolume) {
	f.t.Helper()
	content, err := v.read(f.target(id))
	if err != nil || content != v.content() {
		f.t.Errorf("volume %s has %q, %v, want %q", id, content, err, v.content())
	}
	if v.isImage() || v.block || v.parameters["mode"] == "" {
		return
	}
	var st unix.Stat_t
	must(f.t, unix.Stat(f.target(id), &st))
	origin := v
	for origin.source != "" {
		origin = volumeNamed(origin.source)
	}
	if got := mode(st); got != origin.parameters["mode"] {
		f.t.Errorf("volume %s has mode %s, want %s", id, got, origin.parameters["mode"])
	}
}

// wantExpanded: the new record says the same as the old one, but for the size.
func wantExpanded(f *fixture, v oldVolume, before map[string]any) {
	f.t.Helper()
	now := f.record(v.directory())
	want := []string{"capacityBytes"}
	if v.isImage() {
		want = append(want, "filesystemBytes")
	}
	if got := differences(before, now); !slices.Equal(got, want) {
		f.t.Errorf("the expansion changed %q, want %q: from %v to %v", got, want, before, now)
	}
	if now["capacityBytes"] != float64(2*v.bytes) {
		f.t.Errorf("the record has capacityBytes %v, want %d", now["capacityBytes"], 2*v.bytes)
	}
}

func useSnapshot(f *fixture, s oldSnapshot) {
	f.t.Helper()
	v := volumeNamed(s.source)
	id := f.snapshotIDs()[s.name]
	if again := f.createSnapshot(s.name, f.volumeIDs()[v.directory()]); again != id {
		f.t.Errorf("the repeated CreateSnapshot answers %q, want %q", again, id)
	}
	f.useCopy(v, func(copied oldVolume) string { return f.mustCreate(copied, fromSnapshot(id)) })
}

// useInline: kubelet asks again after the driver's update, and ends the pod later.
func useInline(f *fixture) {
	f.t.Helper()
	before := len(f.entries("volumes"))
	content, err := os.ReadFile(filepath.Join(f.publishInline(), "file"))
	if err != nil || string(content) != inlineName {
		f.t.Errorf("the inline volume has %q, %v, want %q", content, err, inlineName)
	}
	f.unpublishInline()
	f.wantEntries(before-1, len(recordedSnapshots()))
}

func deleteAll(f *fixture) {
	f.t.Helper()
	for _, id := range f.snapshotIDs() {
		f.deleteSnapshot(id)
	}
	for _, id := range f.volumeIDs() {
		f.delete(id)
	}
	f.wantEntries(0, 0)
}
