package nodeserver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestSingleWriterHasOneTarget(t *testing.T) {
	const (
		single = singleWriter
		shared = multiWriter
	)
	for _, tc := range []struct {
		title         string
		first, second csi.VolumeCapability_AccessMode_Mode
		pod           string // that publishes second
		want          codes.Code
	}{
		{"two single writers", single, single, "b", codes.FailedPrecondition},
		{"a single writer beside others", shared, single, "b", codes.FailedPrecondition},
		{"others beside a single writer", single, shared, "b", codes.FailedPrecondition},
		{"the same again", single, single, "a", codes.OK},
		{"several writers", shared, shared, "b", codes.OK},
	} {
		t.Run(tc.title, func(t *testing.T) {
			n := newNode(t)
			id := n.create(t, "v", volume.DirectoryOrCreate)
			fixture.Must(t, n.publishAs(t, id, "a", tc.first))
			wantCode(t, n.publishAs(t, id, tc.pod, tc.second), tc.want)
			if _, err := os.Lstat(n.target("b")); tc.want != codes.OK && !os.IsNotExist(err) {
				t.Errorf("the refused target exists: %v", err)
			}
			fixture.Must(t, n.unpublish(t, id, "a"))
			fixture.Must(t, n.unpublish(t, id, tc.pod))
			fixture.Must(t, n.publishAs(t, id, "c", single)) // the refused publication left nothing
		})
	}
}

func TestSingleWriterIsKnownAfterARestart(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	fixture.Must(t, n.publishAs(t, id, "a", singleWriter))
	n.restart(t)
	wantCode(t, n.publishAs(t, id, "b", singleWriter), codes.FailedPrecondition)
	fixture.Must(t, n.publishAs(t, id, "a", singleWriter)) // kubelet repeats the call
	wantCode(t, n.publishAs(t, id, "b", multiWriter), codes.FailedPrecondition)
	fixture.Must(t, n.unpublish(t, id, "a"))
	fixture.Must(t, n.publishAs(t, id, "b", singleWriter))
}

// If the driver remembered a publication that no longer exists, it would refuse all others until
// its next start.
func TestUnmountByHandIsNoticed(t *testing.T) {
	for _, tc := range []struct {
		title         string
		first, second csi.VolumeCapability_AccessMode_Mode
	}{
		{"single writer after a single writer", singleWriter, singleWriter},
		{"single writer after others", multiWriter, singleWriter},
		{"others after a single writer", singleWriter, multiWriter},
	} {
		t.Run(tc.title, func(t *testing.T) {
			n := newNode(t)
			id := n.create(t, "v", volume.DirectoryOrCreate)
			fixture.Must(t, n.publishAs(t, id, "a", tc.first))
			fixture.Must(t, unix.Unmount(n.target("a"), 0))
			fixture.Must(t, n.publishAs(t, id, "b", tc.second))
			fixture.Must(t, n.unpublish(t, id, "b"))
			fixture.Must(t, n.checkUnused(t, id))
		})
	}
}

func TestTargetOfAVolumeThatWasUnmountedByHandIsFree(t *testing.T) {
	n := newNode(t)
	first, second := n.create(t, "v",
		volume.DirectoryOrCreate), n.create(t, "w", volume.DirectoryOrCreate)
	fixture.Must(t, n.publish(t, n.publishRequest(first, "a")))
	fixture.Must(t, unix.Unmount(n.target("a"), 0))
	fixture.Must(t, n.publish(t, n.publishRequest(second, "a")))
	fixture.Must(t, n.unpublish(t, second, "a"))
}

func TestPublishedVolumeIsInUse(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	fixture.Must(t, n.checkUnused(t, id))
	fixture.Must(t, n.publish(t, n.publishRequest(id, "a")))
	wantCode(t, n.checkUnused(t, id), codes.FailedPrecondition)
	n.restart(t)
	wantCode(t, n.checkUnused(t, id), codes.FailedPrecondition)
	fixture.Must(t, unix.Unmount(n.target("a"), 0))
	fixture.Must(t, n.checkUnused(t, id))
}

func TestRebuildFindsWhatIsPublishedAndNothingElse(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	file := n.create(t, "name/that is hashed", volume.FileOrCreate)
	fixture.Must(t, n.publish(t, n.publishRequest(id, "with blank")))
	fixture.Must(t, n.publish(t, n.publishRequest(id, "another")))
	fixture.Must(t, n.publish(t, n.publishRequest(file, "file")))
	// These mounts show parts of the pool and are no publications: the whole pool, a directory inside
	// a volume, and a mount outside kubelet's directory.
	data := filepath.Join(n.poolPath(), "volumes", "v", "data")
	fixture.Must(t, os.Mkdir(filepath.Join(data, "sub"), 0o755))
	outside := filepath.Join(t.TempDir(), "outside")
	for source, point := range map[string]string{
		n.poolPath(): n.target("pool"), filepath.Join(data, "sub"): n.target("sub"), data: outside,
	} {
		fixture.Must(t, os.Mkdir(point, 0o755))
		fixture.Must(t, unix.Mount(source, point, "", unix.MS_BIND, ""))
	}
	t.Cleanup(func() { _ = unix.Unmount(outside, unix.MNT_DETACH) })
	n.restart(t)
	if got := len(n.Publications.Targets(id.String())); got != 2 {
		t.Errorf("the directory has %d targets, want 2", got)
	}
	if got := len(n.Publications.Targets(file.String())); got != 1 {
		t.Errorf("the file has %d targets, want 1", got)
	}
	if got := len(n.Publications.byTarget); got != 3 {
		t.Errorf("there are %d publications, want 3", got)
	}
	fixture.Must(t, n.publish(t, n.publishRequest(id, "with blank")))
	if got := mountsBelow(t, n.KubeletDir); len(got) != 5 {
		t.Errorf("mounted are %q", got)
	}
}

func (n *node) poolPath() string { return filepath.Join(filepath.Dir(n.KubeletDir), "pool") }

func TestTargetOfAnotherVolumeIsRefused(t *testing.T) {
	n := newNode(t)
	first, second := n.create(t, "v",
		volume.DirectoryOrCreate), n.create(t, "w", volume.DirectoryOrCreate)
	fixture.Must(t, n.publish(t, n.publishRequest(first, "a")))
	wantCode(t, n.publish(t, n.publishRequest(second, "a")), codes.FailedPrecondition)
	wantCode(t, n.unpublish(t, second, "a"), codes.FailedPrecondition)
	if got := mountsBelow(t, n.KubeletDir); len(got) != 1 {
		t.Errorf("mounted are %q", got)
	}
	fixture.Must(t, n.checkUnused(t, second))
}

// A publish that failed is not remembered. Otherwise the volume could not be deleted.
func TestFailedPublishIsForgotten(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	fixture.Must(t, os.MkdirAll(filepath.Join(n.target("a"), "full"), 0o755))
	wantCode(t, n.publishAs(t, id, "a", singleWriter), codes.FailedPrecondition)
	wantCode(t, n.publishAs(t, id, "no/parent", singleWriter), codes.Internal)
	fixture.Must(t, n.checkUnused(t, id))
	fixture.Must(t, n.publishAs(t, id, "b", singleWriter))
}

func TestSeveralNodesModeMeansThePodsOfOne(t *testing.T) {
	n := newNodeWith(t, pool.Options{AllowMultiNode: true})
	id := n.create(t, "v", volume.DirectoryOrCreate)
	for _, mode := range []csi.VolumeCapability_AccessMode_Mode{
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
	} {
		fixture.Must(t, n.publishAs(t, id, "a", mode))
		fixture.Must(t, n.publishAs(t, id, "b", mode))
	}
	fixture.Must(t, n.publishAs(t, id, "c", csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY))
	if err := os.WriteFile(filepath.Join(n.target("c"), "file"), nil, 0o600); err == nil {
		t.Error("the read-only pod could write")
	}
}

func TestDamagedVolumeIsNotPublished(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	fixture.Must(
		t,
		os.Rename(
			filepath.Join(n.poolPath(), "volumes", "v", "data"),
			filepath.Join(n.poolPath(), "volumes", "v", "gone"),
		),
	)
	wantCode(t, n.publish(t, n.publishRequest(id, "a")), codes.Internal)
	if _, err := os.Lstat(n.target("a")); !os.IsNotExist(err) {
		t.Errorf("the target exists: %v", err)
	}
}
