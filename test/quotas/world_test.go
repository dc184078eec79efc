//go:build vm

package quotas

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// filesystems are those of the machine's disks, by name.
var filesystems = []string{disks.XFS, disks.Ext4}

const (
	mib = 1 << 20
	// slack is what a volume may be full before its size: the directory, the blocks that map a
	// file's.
	slack = 64 << 10
	// firstID is where the IDs of volumes begin (pkg/backend/projquota); kubelet takes its own from
	// kubeletID on.
	firstID   = 1 << 30
	kubeletID = 1048577
	// patience bounds how long a test waits for what happens in the background.
	patience = time.Minute
	// atOnce is how many calls are under way.
	atOnce = 8
)

// world is a driver with a pool on one of the machine's disks, and a kubelet's directory beside it.
type world struct {
	t      *testing.T
	disk   string // its mount point
	dir    string
	config string
	driver *process.Process
	log    *process.Log
}

// newWorld has no driver yet. What is below its directory outlives the test, as the disk does.
func newWorld(t *testing.T, disk, name, poolOptions string) *world {
	t.Helper()
	w := &world{
		t:      t,
		disk:   disk,
		dir:    filepath.Join(disk, name),
		config: filepath.Join(t.TempDir(), "driver.yaml"),
		log:    &process.Log{},
	}
	w.must(os.MkdirAll(w.dir, 0o755))
	w.must(
		os.WriteFile(
			w.config,
			[]byte("apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\npools:\n- name: p\n"+
				"  path: "+filepath.Join(w.dir, "pool")+"\n  default: true\n  quota: required\n"+poolOptions),
			0o600,
		),
	)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the driver's log:\n%s", w.log)
		}
	})
	return w
}

// start starts a driver that is ready, and ends with the test. An earlier one ends before.
func (w *world) start() {
	w.t.Helper()
	w.stop()
	binary, err := process.Build(w.t.Context(), w.t.TempDir())
	w.must(err)
	w.driver, err = process.StartReady(w.t.Context(), process.Options{
		Binary: binary, Dir: w.dir, Args: []string{"--config", w.config}, Log: w.log,
	})
	w.must(err)
	w.t.Cleanup(w.stop)
}

func (w *world) stop() {
	if d := w.driver; d != nil {
		w.driver = nil
		w.must(d.Stop())
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func mountCapability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{
			Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		},
	}
}

func (w *world) create(
	ctx context.Context, name string, volumeType volume.Type, size int64,
) (string, error) {
	resp, err := w.driver.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size, LimitBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{mountCapability()},
		Parameters:         map[string]string{volume.ParamType: string(volumeType)},
	})
	return resp.GetVolume().GetVolumeId(), err
}

// createWith takes further parameters of a class.
func (w *world) createWith(
	ctx context.Context, name string, params map[string]string,
) (string, error) {
	resp, err := w.driver.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: mib}, Parameters: params,
		VolumeCapabilities: []*csi.VolumeCapability{mountCapability()},
	})
	return resp.GetVolume().GetVolumeId(), err
}

func (w *world) delete(ctx context.Context, id string) error {
	_, err := w.driver.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// target is where a pod would see a volume. Kubelet makes its parent.
func (w *world) target(pod string) string {
	return filepath.Join(w.driver.KubeletDir(), "pods", pod, "mount")
}

func (w *world) publish(ctx context.Context, id, target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	_, err := w.driver.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          id,
		TargetPath:        target,
		StagingTargetPath: filepath.Join(w.driver.KubeletDir(), "staging"),
		VolumeCapability:  mountCapability(),
	})
	return err
}

func (w *world) unpublish(ctx context.Context, id, target string) error {
	_, err := w.driver.Node.NodeUnpublishVolume(ctx,
		&csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target})
	return err
}

// stats are what kubelet is told of a unit.
func (w *world) stats(
	ctx context.Context, id, target string, unit csi.VolumeUsage_Unit,
) (*csi.VolumeUsage, error) {
	resp, err := w.driver.Node.NodeGetVolumeStats(ctx,
		&csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: target})
	if err != nil {
		return nil, err
	}
	for _, u := range resp.GetUsage() {
		if u.GetUnit() == unit {
			return u, nil
		}
	}
	return nil, fmt.Errorf("no %s among %v", unit, resp.GetUsage())
}

// volumes are the IDs that the driver lists.
func (w *world) volumes() []string {
	w.t.Helper()
	resp, err := w.driver.Controller.ListVolumes(w.t.Context(), &csi.ListVolumesRequest{})
	w.must(err)
	var ids []string
	for _, e := range resp.GetEntries() {
		ids = append(ids, e.GetVolume().GetVolumeId())
	}
	return ids
}

// wantNothingLeft: when all volumes are deleted, no project has a limit and nothing counts, and the
// pool is empty.
func (w *world) wantNothingLeft() {
	w.t.Helper()
	if ids := w.volumes(); len(ids) > 0 {
		w.t.Errorf("the driver still lists %q", ids)
	}
	w.eventually("all is purged, and no quota is left", func() bool {
		return len(w.entries("tmp")) == 0 && len(w.entries("trash")) == 0 &&
			len(guest.ProjectQuotas(w.t, w.disk, firstID)) == 0
	})
	for _, dir := range []string{"volumes", "snapshots"} {
		if left := w.entries(dir); len(left) > 0 {
			w.t.Errorf("%s/ has %q", dir, left)
		}
	}
}

func (w *world) entries(dir string) []string {
	w.t.Helper()
	list, err := os.ReadDir(filepath.Join(w.dir, "pool", dir))
	w.must(err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func (w *world) eventually(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not after %s: %s (trash/ has %q, quotas are %+v)", patience, what,
				strings.Join(w.entries("trash"), " "), guest.ProjectQuotas(w.t, w.disk, firstID))
		}
	}
}

// fill writes to the end of a file as a pod does, until it is full, and says how much went in.
func fill(path string) (written int64, err error) {
	err = guest.AsPod(func() error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		content := make([]byte, 64<<10)
		for len(content) >= 4<<10 {
			n, err := f.Write(content)
			written += int64(n)
			if isFull(err) {
				content = content[:len(content)/4] // what is left may be less
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return written, err
}

// isFull says whether a writer was told that there is no room. XFS answers ENOSPC for a project,
// ext4 EDQUOT.
func isFull(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }
