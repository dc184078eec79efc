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
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestPoolsOfOlderVersionsCanBeUsed(t *testing.T) {
	disks.RequireRoot(t)
	driver := fixture.Build(t, "failpoint")
	archives, err := filepath.Glob(filepath.Join("testdata", "*"+suffix))
	fixture.Must(t, err)
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
	n := newNode(t, driver, disks.New(t, filesystemOf(t, archive), diskBytes))
	unpack(t, archive, n.Path())
	old := records(t, n.Path(poolName))
	wantRecorded(n)
	// Kubelet still has the pod of the inline volume.
	fixture.Must(t, os.MkdirAll(n.Path("kubelet", "pods", podUID), 0o750))
	n.Start()
	volumes, snapshots := recordedVolumes(), recordedSnapshots()
	t.Run("what was deleted is purged", func(t *testing.T) {
		n.in(t).wantEntries(len(volumes)+1, len(snapshots))
	})
	t.Run("everything is listed", func(t *testing.T) { wantListed(n.in(t)) })
	t.Run("records stay as they are", func(t *testing.T) { wantSameRecords(n.in(t), old) })
	for _, v := range volumes {
		t.Run("volume "+v.name, func(t *testing.T) { useVolume(n.in(t), v) })
	}
	for _, s := range snapshots {
		t.Run("snapshot "+s.name, func(t *testing.T) { useSnapshot(n.in(t), s) })
	}
	t.Run("inline volume", func(t *testing.T) { useInline(n.in(t)) })
	t.Run("everything can be deleted", func(t *testing.T) { deleteAll(n.in(t)) })
}

// wantRecorded makes sure that the archive has what the driver is to find.
func wantRecorded(n *node) {
	n.t.Helper()
	if got := n.entries("tmp"); len(got) != 1 {
		n.t.Errorf("tmp/ has %q, want one entry", got)
	}
	if got := n.entries("trash"); len(got) != 2 {
		n.t.Errorf("trash/ has %q, want two entries", got)
	}
	var st unix.Stat_t
	fixture.Must(n.t, unix.Lstat(n.Path(poolName, "volumes", "deleted-in-place"), &st))
	if st.Mode&0o7777 != deletedInPlace {
		n.t.Errorf("deleted-in-place has mode %#o, want %#o", st.Mode&0o7777, deletedInPlace)
	}
}

func wantListed(n *node) {
	n.t.Helper()
	var want []string
	for _, v := range recordedVolumes() {
		want = append(want, v.directory())
	}
	slices.Sort(want)
	got := slices.Sorted(maps.Keys(n.volumeIDs()))
	got = slices.DeleteFunc(got,
		func(name string) bool { return n.record(name)["name"] == inlineHandle() })
	if !slices.Equal(got, want) {
		n.t.Errorf("volumes are %q, want %q", got, want)
	}
	want = nil
	for _, s := range recordedSnapshots() {
		want = append(want, s.name)
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(n.snapshotIDs())); !slices.Equal(got, want) {
		n.t.Errorf("snapshots are %q, want %q", got, want)
	}
}

// wantSameRecords: a start changes no record.
func wantSameRecords(n *node, old map[string]map[string]any) {
	n.t.Helper()
	now := records(n.t, n.Path(poolName))
	for path, record := range now {
		if keys := differences(old[path], record); len(keys) > 0 {
			n.t.Errorf("%s: the start changed %q: from %v to %v", path, keys, old[path], record)
		}
	}
}

func useVolume(n *node, v oldVolume) {
	n.t.Helper()
	id := n.volumeIDs()[v.directory()]
	if again := n.createAgain(v); again != id {
		n.t.Errorf("the repeated CreateVolume answers %q, want %q", again, id)
	}
	before := n.record(v.directory())
	n.publish(id, v)
	if v.unused {
		fixture.Must(n.t, v.write(n.target(id)))
	}
	wantContent(n, id, v)
	n.unpublish(id)

	snapshotID := n.createSnapshot("new-of-"+v.directory(), id)
	n.useCopy(v,
		func(copied oldVolume) string { return n.mustCreate(copied, fixture.FromSnapshot(snapshotID)) })
	n.deleteSnapshot(snapshotID)
	n.useCopy(v, func(copied oldVolume) string { return n.mustCreate(copied, fixture.FromVolume(id)) })

	if !v.canGrow() {
		return
	}
	n.publish(id, v)
	n.expand(id, v, 2*v.bytes)
	wantContent(n, id, v)
	n.unpublish(id)
	wantExpanded(n, v, before)
}

// createAgain repeats the call that made the volume.
func (n *node) createAgain(v oldVolume) string {
	n.t.Helper()
	switch {
	case v.ofSnapshot:
		return n.mustCreate(v, fixture.FromSnapshot(n.snapshotIDs()[v.source]))
	case v.source != "":
		return n.mustCreate(v, fixture.FromVolume(n.volumeIDs()[volumeNamed(v.source).directory()]))
	default:
		return n.mustCreate(v, nil)
	}
}

// useCopy makes a copy of a volume, looks into it and deletes it.
func (n *node) useCopy(v oldVolume, create func(oldVolume) string) {
	n.t.Helper()
	copied := v.named("copy")
	copied.source, copied.ofSnapshot = v.name, false
	id := create(copied)
	n.publish(id, copied)
	wantContent(n, id, copied)
	n.unpublish(id)
	n.delete(id)
}

func wantContent(n *node, id string, v oldVolume) {
	n.t.Helper()
	content, err := v.read(n.target(id))
	if err != nil || content != v.content() {
		n.t.Errorf("volume %s has %q, %v, want %q", id, content, err, v.content())
	}
	if v.isImage() || v.block || v.parameters["mode"] == "" {
		return
	}
	var st unix.Stat_t
	fixture.Must(n.t, unix.Stat(n.target(id), &st))
	origin := v
	for origin.source != "" {
		origin = volumeNamed(origin.source)
	}
	if got := mode(st); got != origin.parameters["mode"] {
		n.t.Errorf("volume %s has mode %s, want %s", id, got, origin.parameters["mode"])
	}
}

// wantExpanded: the new record says the same as the old one, but for the size.
func wantExpanded(n *node, v oldVolume, before map[string]any) {
	n.t.Helper()
	now := n.record(v.directory())
	want := []string{"capacityBytes"}
	if v.isImage() {
		want = append(want, "filesystemBytes")
	}
	if got := differences(before, now); !slices.Equal(got, want) {
		n.t.Errorf("the expansion changed %q, want %q: from %v to %v", got, want, before, now)
	}
	if now["capacityBytes"] != float64(2*v.bytes) {
		n.t.Errorf("the record has capacityBytes %v, want %d", now["capacityBytes"], 2*v.bytes)
	}
}

func useSnapshot(n *node, s oldSnapshot) {
	n.t.Helper()
	v := volumeNamed(s.source)
	id := n.snapshotIDs()[s.name]
	if again := n.createSnapshot(s.name, n.volumeIDs()[v.directory()]); again != id {
		n.t.Errorf("the repeated CreateSnapshot answers %q, want %q", again, id)
	}
	n.useCopy(v, func(copied oldVolume) string {
		return n.mustCreate(copied, fixture.FromSnapshot(id))
	})
}

// useInline: kubelet asks again after the driver's update, and ends the pod later.
func useInline(n *node) {
	n.t.Helper()
	before := len(n.entries("volumes"))
	content, err := os.ReadFile(filepath.Join(n.publishInline(), "file"))
	if err != nil || string(content) != inlineName {
		n.t.Errorf("the inline volume has %q, %v, want %q", content, err, inlineName)
	}
	n.unpublishInline()
	n.wantEntries(before-1, len(recordedSnapshots()))
}

func deleteAll(n *node) {
	n.t.Helper()
	for _, id := range n.snapshotIDs() {
		n.deleteSnapshot(id)
	}
	for _, id := range n.volumeIDs() {
		n.delete(id)
	}
	n.wantEntries(0, 0)
}
