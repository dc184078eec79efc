package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// step is a call in the life of an image volume.
type step string

const (
	imageCreate    step = "create"
	imageStage     step = "stage"
	imageRestage   step = "stage-again"
	imagePublish   step = "publish"
	imageExpand    step = "expand"
	imageModify    step = "modify"
	imageSnapshot  step = "snapshot"
	imageRestore   step = "restore"
	imageUnpublish step = "unpublish"
	imageUnstage   step = "unstage"
	imageDelete    step = "delete"
)

const (
	// The smallest XFS. XFS, because it grows also where root lacks CAP_SYS_RESOURCE.
	imageBytes      = 304 << 20
	grownImageBytes = 336 << 20
)

// crashImages kills the driver at every step of each call for an image volume.
func crashImages(t *testing.T, binary, dir string, hit map[string]bool) {
	t.Helper()
	for _, op := range []step{
		imageCreate, imageStage, imageRestage, imagePublish, imageExpand, imageModify, imageSnapshot,
		imageRestore, imageUnpublish, imageUnstage, imageDelete,
	} {
		t.Run(fmt.Sprintf("%s image", op), func(t *testing.T) {
			for at := 1; at <= maxSteps; at++ {
				n := newNode(t, binary, filepath.Join(dir, fmt.Sprintf("image-%s-%d", op, at)))
				point := newImageCrash(n, op).run(at)
				if point == "" {
					return // it has survived
				}
				hit[point] = true
			}
			t.Fatalf("the driver still dies at step %d", maxSteps)
		})
	}
}

// imageCrash kills the driver once while it works on an image to which a pod has written before.
type imageCrash struct {
	*node
	op             step
	victim, target string

	snapshot, restored string // IDs; "" if the operation makes none
}

func newImageCrash(n *node, op step) *imageCrash {
	n.t.Helper()
	c := &imageCrash{node: n, op: op}
	c.Start()
	c.target = c.node.target("victim")
	c.Must(os.MkdirAll(c.stagingPath(), 0o755))
	steps := []step{imageCreate, imageStage, imagePublish, imageUnpublish, imageUnstage}
	switch op {
	case imageCreate:
		steps = nil
	case imageStage:
		steps = steps[:1]
	case imagePublish:
		steps = steps[:2]
	case imageExpand, imageModify, imageUnpublish, imageSnapshot:
		steps = steps[:3]
	case imageRestore:
		steps = append(steps[:3:3], imageSnapshot)
	case imageUnstage:
		steps = steps[:4]
	default: // imageRestage, imageDelete
	}
	for _, step := range steps {
		c.Must(c.do(n.t.Context(), step))
		switch step {
		case imagePublish:
			write(n.t, filepath.Join(c.target, "file"))
		case imageUnstage:
			c.waitDetached()
		default:
		}
	}
	return c
}

func (c *imageCrash) stagingPath() string { return c.Path("kubelet", "staging") }

// run does the operation with the n-th failpoint armed, and again after a restart. It returns the
// failpoint at which the driver died, and "" if the driver survived.
func (c *imageCrash) run(n int) (point string) {
	c.t.Helper()
	c.Start(failpoint(n))
	ctx, cancel := context.WithTimeout(c.t.Context(), fixture.Patience())
	defer cancel()
	err := c.do(ctx, c.op)
	if (&crash{node: c.node}).survives(err) {
		c.Start()
	} else {
		<-c.Exited()
		point = c.killedAt()
		c.t.Logf("killed at %s", point)
		c.Start()
		for range 2 { // the retry, and the same call again
			if err := c.do(ctx, c.op); err != nil {
				c.t.Errorf("killed at %s: the retry: %v", point, err)
			}
		}
	}
	c.finish()
	if c.t.Failed() {
		c.t.FailNow()
	}
	return point
}

func (c *imageCrash) do(ctx context.Context, op step) (err error) {
	capability := fixture.MountCapability("")
	capability.GetMount().FsType = "xfs"
	switch op {
	case imageCreate:
		var resp *csi.CreateVolumeResponse
		resp, err = c.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name:               "victim",
			CapacityRange:      &csi.CapacityRange{RequiredBytes: imageBytes},
			VolumeCapabilities: []*csi.VolumeCapability{capability},
			Parameters:         map[string]string{"backing": "image", "allocation": "preallocated"},
		})
		c.victim = resp.GetVolume().GetVolumeId()
	case imageStage, imageRestage:
		_, err = c.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
			VolumeId: c.victim, StagingTargetPath: c.stagingPath(), VolumeCapability: capability,
		})
	case imagePublish:
		_, err = c.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId:          c.victim,
			StagingTargetPath: c.stagingPath(),
			TargetPath:        c.target,
			VolumeCapability:  capability,
		})
	case imageExpand:
		_, err = c.Node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
			VolumeId: c.victim, VolumePath: c.target, StagingTargetPath: c.stagingPath(),
			CapacityRange: &csi.CapacityRange{RequiredBytes: grownImageBytes},
		})
	case imageModify:
		_, err = c.Controller.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
			VolumeId: c.victim, MutableParameters: map[string]string{"trashRetention": "0s"},
		})
	case imageSnapshot:
		var resp *csi.CreateSnapshotResponse
		resp, err = c.Controller.CreateSnapshot(ctx,
			&csi.CreateSnapshotRequest{Name: "snapshot", SourceVolumeId: c.victim})
		c.snapshot = resp.GetSnapshot().GetSnapshotId()
	case imageRestore:
		err = c.restore(ctx, capability)
	case imageUnpublish:
		err = c.unpublish(ctx, c.victim, c.target)
	case imageUnstage:
		_, err = c.Node.NodeUnstageVolume(ctx,
			&csi.NodeUnstageVolumeRequest{VolumeId: c.victim, StagingTargetPath: c.stagingPath()})
	case imageDelete:
		err = c.delete(ctx, c.victim)
	}
	return err
}

func (c *imageCrash) restore(ctx context.Context, capability *csi.VolumeCapability) error {
	resp, err := c.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: "restored", VolumeCapabilities: []*csi.VolumeCapability{capability},
		Parameters: map[string]string{"backing": "image"},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: c.snapshot},
		}},
	})
	c.restored = resp.GetVolume().GetVolumeId()
	return err
}

// finish takes the volume from its present step to the end of its life, and checks on the way what
// a crash could have damaged.
func (c *imageCrash) finish() {
	c.t.Helper()
	ctx := c.t.Context()
	if c.op != imageDelete {
		c.Must(c.do(ctx, imageStage))
		c.Must(c.do(ctx, imagePublish))
		if devices := c.devices(); len(devices) != 1 {
			c.t.Errorf("the image is on devices %d", devices)
		}
		if c.op == imageCreate || c.op == imageStage || c.op == imagePublish {
			write(c.t, filepath.Join(c.target, "file"))
		}
		wantContent(c.t, filepath.Join(c.target, "file"))
		if got, want := len(c.Mounts("kubelet")), 2; got != want {
			c.t.Errorf("mounted are %q, want %d", c.Mounts("kubelet"), want)
		}
		c.wantChanged()
		for _, step := range []step{imageUnpublish, imageUnstage} {
			c.Must(c.do(ctx, step))
		}
		c.finishCopies(ctx)
	}
	c.waitDetached()
	c.Must(c.do(ctx, imageDelete))
	c.wantClean(0)
	c.Stop()
}

// finishCopies checks the content of the restored volume, and deletes it and the snapshot.
func (c *imageCrash) finishCopies(ctx context.Context) {
	c.t.Helper()
	if c.restored != "" {
		original := c.victim
		c.victim = c.restored
		for _, step := range []step{imageStage, imagePublish} {
			c.Must(c.do(ctx, step))
		}
		wantContent(c.t, filepath.Join(c.target, "file"))
		for _, step := range []step{imageUnpublish, imageUnstage} {
			c.Must(c.do(ctx, step))
		}
		c.waitDetached()
		c.Must(c.do(ctx, imageDelete))
		c.victim = original
	}
	if c.snapshot != "" {
		_, err := c.Controller.DeleteSnapshot(ctx,
			&csi.DeleteSnapshotRequest{SnapshotId: c.snapshot})
		c.Must(err)
	}
}

// wantChanged looks for what the operation has changed of the volume.
func (c *imageCrash) wantChanged() {
	c.t.Helper()
	switch c.op {
	case imageExpand:
		c.wantSize(grownImageBytes)
	case imageModify:
		c.wantModified()
	default:
	}
}

// wantModified looks for the change in the volume's record.
func (c *imageCrash) wantModified() {
	c.t.Helper()
	record, err := os.ReadFile(c.Path("pool", "volumes", "victim", "volume.json"))
	c.Must(err)
	if want := `"trashRetention": "0s"`; !strings.Contains(string(record), want) {
		c.t.Errorf("the record is %s, want %s in it", record, want)
	}
}

// wantSize compares the size that the pod sees in df.
func (c *imageCrash) wantSize(bytes int64) {
	c.t.Helper()
	resp, err := c.Node.NodeGetVolumeStats(c.t.Context(),
		&csi.NodeGetVolumeStatsRequest{VolumeId: c.victim, VolumePath: c.target})
	c.Must(err)
	const log = 64 << 20 // the log of XFS
	if got := resp.GetUsage()[0].GetTotal(); got < bytes-log*11/10 || got > bytes {
		c.t.Errorf("the filesystem has %d bytes, want about %d", got, bytes)
	}
}

// waitDetached waits until the unstaged image is on no device. The kernel detaches a device at its
// last close, and any process of the machine may have the device open for a moment.
func (c *imageCrash) waitDetached() {
	c.t.Helper()
	c.eventually("the unstaged image is on no device", func() bool { return len(c.devices()) == 0 })
}

// devices returns the numbers of the loop devices that have a file of this node.
func (c *imageCrash) devices() []int {
	c.t.Helper()
	numbers, err := loopdev.Attached()
	c.Must(err)
	return slices.DeleteFunc(numbers, func(n int) bool {
		path, err := loopdev.BackingPath(n)
		// A device may be detached between the two calls.
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) &&
			!errors.Is(err, unix.ENXIO) {
			c.t.Error(err)
		}
		return !strings.HasPrefix(path, c.Path()+"/")
	})
}
