package oldpools

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// diskBytes is the least that XFS takes, because the recorder fills the disk.
const diskBytes = 300 * mebi

// patience bounds how long a test waits for what happens in the background.
const patience = 2 * time.Minute

// fixture is a node with one pool on a disk of its own. The driver is started by start.
type fixture struct {
	*process.Process
	t      *testing.T
	binary string
	dir    string
	log    *process.Log
}

func newFixture(t *testing.T, binary string, disk disks.Disk) *fixture {
	t.Helper()
	f := &fixture{t: t, binary: binary, dir: disk.Dir, log: &process.Log{}}
	t.Cleanup(func() {
		f.kill()
		if t.Failed() {
			t.Logf("the driver's log:\n%s", f.log)
		}
	})
	return f
}

func (f *fixture) path(elements ...string) string {
	return filepath.Join(append([]string{f.dir}, elements...)...)
}

func (f *fixture) start(env ...string) {
	f.t.Helper()
	// The images are promised more than the disk has: they stay nearly empty.
	config := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" +
		"pools: [{name: p, path: " + f.path(poolName) + ", overcommit: 100}]\n"
	must(f.t, os.WriteFile(f.path("config.yaml"), []byte(config), 0o600))
	p, err := process.StartReady(f.t.Context(), process.Options{
		Binary: f.binary, Dir: f.dir, Args: []string{"--config", f.path("config.yaml")},
		Env: env, Log: f.log,
	})
	must(f.t, err)
	f.Process = p
}

func (f *fixture) kill() {
	f.t.Helper()
	if f.Process == nil {
		return
	}
	must(f.t, f.Kill())
	f.Process = nil
}

// in is the same fixture for a subtest.
func (f *fixture) in(t *testing.T) *fixture {
	t.Helper()
	other := *f
	other.t = t
	return &other
}

func (f *fixture) create(v oldVolume, source *csi.VolumeContentSource) (id string, err error) {
	resp, err := f.Controller.CreateVolume(f.t.Context(), &csi.CreateVolumeRequest{
		Name:                v.name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: v.bytes},
		VolumeCapabilities:  []*csi.VolumeCapability{v.capability()},
		Parameters:          v.parameters,
		VolumeContentSource: source,
	})
	return resp.GetVolume().GetVolumeId(), err
}

func (f *fixture) mustCreate(v oldVolume, source *csi.VolumeContentSource) string {
	f.t.Helper()
	id, err := f.create(v, source)
	must(f.t, err)
	return id
}

func (f *fixture) delete(id string) {
	f.t.Helper()
	_, err := f.Controller.DeleteVolume(f.t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	must(f.t, err)
}

func (f *fixture) createSnapshot(name, source string) string {
	f.t.Helper()
	resp, err := f.Controller.CreateSnapshot(f.t.Context(),
		&csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	must(f.t, err)
	return resp.GetSnapshot().GetSnapshotId()
}

func (f *fixture) deleteSnapshot(id string) {
	f.t.Helper()
	_, err := f.Controller.DeleteSnapshot(f.t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id})
	must(f.t, err)
}

// volumeIDs are what the driver lists, by the names of the directories.
func (f *fixture) volumeIDs() map[string]string {
	f.t.Helper()
	resp, err := f.Controller.ListVolumes(f.t.Context(), &csi.ListVolumesRequest{})
	must(f.t, err)
	ids := map[string]string{}
	for _, e := range resp.GetEntries() {
		id := e.GetVolume().GetVolumeId()
		_, name, _ := strings.Cut(id, "-")
		ids[name] = id
	}
	return ids
}

// snapshotIDs are what the driver lists, by the names of the snapshots.
func (f *fixture) snapshotIDs() map[string]string {
	f.t.Helper()
	resp, err := f.Controller.ListSnapshots(f.t.Context(), &csi.ListSnapshotsRequest{})
	must(f.t, err)
	ids := map[string]string{}
	for _, e := range resp.GetEntries() {
		id := e.GetSnapshot().GetSnapshotId()
		_, name, _ := strings.Cut(id, "-s-")
		ids[name] = id
	}
	return ids
}

func (f *fixture) stagingPath(id string) string {
	return filepath.Join(f.KubeletDir(), "plugins", id)
}

func (f *fixture) target(id string) string {
	return filepath.Join(f.KubeletDir(), "pods", id, "mount")
}

// publish stages and publishes a volume, and returns where it is.
func (f *fixture) publish(id string, v oldVolume) (target string) {
	f.t.Helper()
	must(f.t, os.MkdirAll(f.stagingPath(id), 0o750))
	must(f.t, os.MkdirAll(filepath.Dir(f.target(id)), 0o750))
	_, err := f.Node.NodeStageVolume(f.t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: f.stagingPath(id), VolumeCapability: v.capability(),
	})
	must(f.t, err)
	_, err = f.Node.NodePublishVolume(f.t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: f.stagingPath(id), TargetPath: f.target(id),
		VolumeCapability: v.capability(),
	})
	must(f.t, err)
	return f.target(id)
}

func (f *fixture) unpublish(id string) {
	f.t.Helper()
	_, err := f.Node.NodeUnpublishVolume(f.t.Context(),
		&csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: f.target(id)})
	must(f.t, err)
	_, err = f.Node.NodeUnstageVolume(f.t.Context(),
		&csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: f.stagingPath(id)})
	must(f.t, err)
}

func (f *fixture) expand(id string, v oldVolume, bytes int64) {
	f.t.Helper()
	_, err := f.Node.NodeExpandVolume(f.t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: id, VolumePath: f.target(id), StagingTargetPath: f.stagingPath(id),
		CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}, VolumeCapability: v.capability(),
	})
	must(f.t, err)
}

// The pod of the inline volume, and kubelet's handle (pkg/volume/csi, makeVolumeHandle).
const (
	podUID     = "0f0e0d0c-0b0a-0908-0706-050403020100"
	inlineName = "inline"
)

func inlineHandle() string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(podUID+inlineName)))
}

func (f *fixture) inlineTarget() string {
	return filepath.Join(f.KubeletDir(), "pods", podUID, "volumes/kubernetes.io~csi", inlineName,
		"mount")
}

// publishInline publishes the inline volume, and returns where it is.
func (f *fixture) publishInline() (target string) {
	f.t.Helper()
	must(f.t, os.MkdirAll(filepath.Dir(f.inlineTarget()), 0o750))
	must(f.t, os.WriteFile(filepath.Join(filepath.Dir(f.inlineTarget()), "vol_data.json"),
		fmt.Appendf(nil, `{"driverName":"hostpath.csi.local","specVolID":%q,"volumeHandle":%q,`+
			`"volumeLifecycleMode":"Ephemeral"}`, inlineName, inlineHandle()), 0o600))
	_, err := f.Node.NodePublishVolume(f.t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: inlineHandle(), TargetPath: f.inlineTarget(),
		VolumeCapability: oldVolume{}.capability(),
		VolumeContext: map[string]string{
			volume.AttrPodName: "web", volume.AttrPodNamespace: "shop", volume.AttrPodUID: podUID,
			volume.AttrEphemeral: "true", "size": "8Mi",
		},
	})
	must(f.t, err)
	return f.inlineTarget()
}

func (f *fixture) unpublishInline() {
	f.t.Helper()
	_, err := f.Node.NodeUnpublishVolume(f.t.Context(), &csi.NodeUnpublishVolumeRequest{
		VolumeId: inlineHandle(), TargetPath: f.inlineTarget(),
	})
	must(f.t, err)
}

// entries are the names in a directory of the pool.
func (f *fixture) entries(dir string) (names []string) {
	f.t.Helper()
	list, err := os.ReadDir(f.path(poolName, dir))
	must(f.t, err)
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// wantEntries waits until the pool has nothing else.
func (f *fixture) wantEntries(volumes, snapshots int) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left := slices.Concat(f.entries("tmp"), f.entries("trash"))
		haveVolumes, haveSnapshots := f.entries("volumes"), f.entries("snapshots")
		if len(left) == 0 && len(haveVolumes) == volumes && len(haveSnapshots) == snapshots {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("after %s the pool has %q in tmp/ and trash/, %d volumes %q and %d snapshots "+
				"%q; want nothing, %d and %d", patience, left, len(haveVolumes), haveVolumes,
				len(haveSnapshots), haveSnapshots, volumes, snapshots)
		}
	}
}

// record is that of a volume, by the name of its directory.
func (f *fixture) record(dir string) map[string]any {
	f.t.Helper()
	return records(f.t, f.path(poolName))[filepath.Join("volumes", dir, "volume.json")]
}

// differences are the keys with which one record has another value than the other one.
func differences(old, now map[string]any) (keys []string) {
	for key := range maps.Keys(old) {
		if fmt.Sprint(old[key]) != fmt.Sprint(now[key]) {
			keys = append(keys, key)
		}
	}
	for key := range now {
		if _, ok := old[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
