package nodeserver

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// breakGrowth lets every program that grows a filesystem fail, until the returned function is
// called.
func breakGrowth(t *testing.T) (mend func()) {
	t.Helper()
	dir, path := t.TempDir(), os.Getenv("PATH")
	for _, program := range []string{"resize2fs", "xfs_growfs", "btrfs"} {
		fixture.Must(t, os.WriteFile(filepath.Join(dir, program),
			[]byte("#!/bin/sh\necho the moon is full >&2\nexit 1\n"), 0o700))
	}
	t.Setenv("PATH", dir+":"+path)
	return func() { t.Setenv("PATH", path) }
}

func (n *imageNode) wantNotGrown(volumes int) {
	n.t.Helper()
	n.wantCounted(volumes)
	got := n.reasonsOf(n.t, &csi.NodeGetVolumeHealthRequest{VolumeId: n.id.String()})
	if isSaid := slices.Contains(got, "GrowthFailed"); isSaid != (volumes > 0) {
		n.t.Errorf("the volume has %q", got)
	}
}

// wantCounted fails the test unless that many volumes of the pool could not be grown.
func (n *imageNode) wantCounted(volumes int) {
	n.t.Helper()
	if s, err := n.pool.Status(); err != nil || s.GrowthsFailing != volumes {
		n.t.Errorf("%d volumes could not be grown, %v, want %d", s.GrowthsFailing, err, volumes)
	}
}

// A volume whose filesystem cannot be grown stays usable.
func TestVolumeWhoseGrowthFailsIsStagedWithTheSizeThatItHas(t *testing.T) {
	onEachFilesystem(t, func(n *imageNode) {
		n.stageAndPublish("a")
		fixture.Must(n.t, os.WriteFile(n.target("a/file"), []byte("precious"), 0o600))
		before, size := usageOf(n.t, n.target("a")), n.capacity()
		mend := breakGrowth(n.t)
		_, err := n.expand(2*size, n.target("staging"))
		if err == nil || !strings.Contains(err.Error(), "the moon is full") ||
			strings.Contains(err.Error(), "pool unavailable") {
			n.t.Errorf("the message is %v", err)
		}
		n.wantNotGrown(1)
		n.takeDown("a")
		n.reopen(n.t, func() {}) // the volume stays usable over a restart
		for range 2 {
			n.stageAndPublish("a")
			wantPrecious(n.t, n.target("a/file"))
			if after := usageOf(n.t, n.target("a")); after.TotalBytes != before.TotalBytes {
				n.t.Errorf("the filesystem has %d bytes, want %d", after.TotalBytes, before.TotalBytes)
			}
			n.wantNotGrown(1)
			n.takeDown("a")
		}
		// The claim is lowered again, to more than the filesystem has: it still has to be grown.
		n.stageAndPublish("a")
		if _, err := n.expand(size+size/2, n.target("staging")); err == nil {
			n.t.Error("the expansion succeeded although the filesystem cannot be grown")
		}
		mend()
		n.RetryGrowth(n.t.Context())
		if n.capacity() != 2*size {
			n.t.Errorf("the volume has %d bytes, want %d", n.capacity(), 2*size)
		}
		if !n.mayGrow() {
			n.wantNotGrown(1) // ext4 grows only with CAP_SYS_RESOURCE
		} else {
			n.wantNotGrown(0)
			wantGrown(n.t, before, usageOf(n.t, n.target("a")), size)
		}
		wantPrecious(n.t, n.target("a/file"))
		n.takeDown("a")
	})
}

// mayGrow says whether this process may grow the filesystem: ext4 requires CAP_SYS_RESOURCE.
func (n *imageNode) mayGrow() bool {
	n.t.Helper()
	v, err := n.pool.Get(n.id)
	fixture.Must(n.t, err)
	_, err = n.expand(v.CapacityBytes, n.target("staging"))
	if err != nil && !strings.Contains(err.Error(), "CAP_SYS_RESOURCE") {
		n.t.Error(err)
	}
	return err == nil
}

// The disk is full, so it has no block for the metadata of a larger filesystem.
func TestGrowthThatTheDiskRefusesLeavesTheVolumeUsable(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 400*mib)
	n := newImageNodeOn(t, imageSpec(volume.XFS), filepath.Join(disk.Dir, "pool"))
	n.stageAndPublish("a")
	fixture.Must(t, os.WriteFile(n.target("a/file"), []byte("precious"), 0o600))
	n.takeDown("a")
	_, err := n.pool.Expand(t.Context(), n.id, volume.SizeRange{Required: 320 * mib})
	fixture.Must(t, err)
	disk.Fill(t)
	n.stageAndPublish("a")
	wantPrecious(t, n.target("a/file"))
	n.wantNotGrown(1)
	n.takeDown("a")
	disk.Unfill(t)
	n.stageAndPublish("a")
	n.wantNotGrown(0)
	wantPrecious(t, n.target("a/file"))
	n.takeDown("a")
}

func TestDeletedVolumeIsNoLongerOneThatCouldNotBeGrown(t *testing.T) {
	node := newImageNode(t, imageSpec(volume.XFS))
	n := node.other(node.createImage("w", imageSpec(volume.XFS)), "staging-w")
	n.stageAndPublish("a")
	breakGrowth(t)
	_, err := n.expand(2*n.capacity(), n.stagingPath())
	wantCode(t, err, codes.Internal)
	n.wantNotGrown(1)
	n.takeDown("a")
	fixture.Must(t, n.pool.Delete(t.Context(), n.id))
	n.wantCounted(0)
}

// ControllerExpandVolume grows the file and the record, and NodeExpandVolume the rest, also if the
// driver was killed in between.
func TestNodeCompletesWhatTheControllerHasExpanded(t *testing.T) {
	onEachFilesystem(t, func(n *imageNode) {
		n.stageAndPublish("a")
		before, size := usageOf(n.t, n.target("a")), n.capacity()
		_, err := n.pool.Expand(n.t.Context(), n.id, volume.SizeRange{Required: 2 * size})
		fixture.Must(n.t, err)
		if after := usageOf(n.t, n.target("a")); after.TotalBytes != before.TotalBytes {
			n.t.Errorf("the filesystem has grown to %d bytes before the node was called", after.TotalBytes)
		}
		n.reopen(n.t, func() {})
		for range 2 { // the second call is a retry
			if resp, err := n.expand(2*size, n.target("staging")); !n.mayGrow() {
				n.wantNotGrown(1)
			} else if err != nil || resp.GetCapacityBytes() != 2*size {
				n.t.Errorf("the node answers %v, %v, want %d bytes", resp, err, 2*size)
			} else {
				wantGrown(n.t, before, usageOf(n.t, n.target("a")), size)
			}
		}
		n.takeDown("a")
	})
}
