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

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// diskBytes is the least that XFS takes, because the recorder fills the disk.
const diskBytes = 300 * mebi

// node is a node with one pool on a disk of its own. Its driver is started by Start.
type node struct {
	*fixture.Driver

	t *testing.T
}

func newNode(t *testing.T, binary string, disk disks.Disk) *node {
	t.Helper()
	n := &node{t: t}
	n.Driver = fixture.NewDriver(t, process.Options{Binary: binary, Dir: disk.Dir})
	// The images are promised more than the disk has: they stay nearly empty.
	config := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" +
		"pools: [{name: p, path: " + n.Path(poolName) + ", overcommit: 100}]\n"
	n.Must(os.WriteFile(n.Path("config.yaml"), []byte(config), 0o600))
	n.SetArgs("--config", n.Path("config.yaml"))
	return n
}

// in is the same node for a subtest.
func (n *node) in(t *testing.T) *node {
	t.Helper()
	return &node{Driver: n.Driver, t: t}
}

func (n *node) create(v oldVolume, source *csi.VolumeContentSource) (id string, err error) {
	resp, err := n.Controller.CreateVolume(n.t.Context(), &csi.CreateVolumeRequest{
		Name:                v.name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: v.bytes},
		VolumeCapabilities:  []*csi.VolumeCapability{v.capability()},
		Parameters:          v.parameters,
		VolumeContentSource: source,
	})
	return resp.GetVolume().GetVolumeId(), err
}

func (n *node) mustCreate(v oldVolume, source *csi.VolumeContentSource) string {
	n.t.Helper()
	id, err := n.create(v, source)
	fixture.Must(n.t, err)
	return id
}

func (n *node) delete(id string) {
	n.t.Helper()
	_, err := n.Controller.DeleteVolume(n.t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	fixture.Must(n.t, err)
}

func (n *node) createSnapshot(name, source string) string {
	n.t.Helper()
	resp, err := n.Controller.CreateSnapshot(n.t.Context(),
		&csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	fixture.Must(n.t, err)
	return resp.GetSnapshot().GetSnapshotId()
}

func (n *node) deleteSnapshot(id string) {
	n.t.Helper()
	_, err := n.Controller.DeleteSnapshot(n.t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id})
	fixture.Must(n.t, err)
}

// volumeIDs are what the driver lists, by the names of the directories.
func (n *node) volumeIDs() map[string]string {
	n.t.Helper()
	resp, err := n.Controller.ListVolumes(n.t.Context(), &csi.ListVolumesRequest{})
	fixture.Must(n.t, err)
	ids := map[string]string{}
	for _, e := range resp.GetEntries() {
		id := e.GetVolume().GetVolumeId()
		_, name, _ := strings.Cut(id, "-")
		ids[name] = id
	}
	return ids
}

// snapshotIDs are what the driver lists, by the names of the snapshots.
func (n *node) snapshotIDs() map[string]string {
	n.t.Helper()
	resp, err := n.Controller.ListSnapshots(n.t.Context(), &csi.ListSnapshotsRequest{})
	fixture.Must(n.t, err)
	ids := map[string]string{}
	for _, e := range resp.GetEntries() {
		id := e.GetSnapshot().GetSnapshotId()
		_, name, _ := strings.Cut(id, "-s-")
		ids[name] = id
	}
	return ids
}

func (n *node) stagingPath(id string) string {
	return filepath.Join(n.KubeletDir(), "plugins", id)
}

func (n *node) target(id string) string {
	return filepath.Join(n.KubeletDir(), "pods", id, "mount")
}

// publish stages and publishes a volume, and returns where it is.
func (n *node) publish(id string, v oldVolume) (target string) {
	n.t.Helper()
	fixture.Must(n.t, os.MkdirAll(n.stagingPath(id), 0o750))
	fixture.Must(n.t, os.MkdirAll(filepath.Dir(n.target(id)), 0o750))
	_, err := n.Node.NodeStageVolume(n.t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: n.stagingPath(id), VolumeCapability: v.capability(),
	})
	fixture.Must(n.t, err)
	_, err = n.Node.NodePublishVolume(n.t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: n.stagingPath(id), TargetPath: n.target(id),
		VolumeCapability: v.capability(),
	})
	fixture.Must(n.t, err)
	return n.target(id)
}

func (n *node) unpublish(id string) {
	n.t.Helper()
	_, err := n.Node.NodeUnpublishVolume(n.t.Context(),
		&csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: n.target(id)})
	fixture.Must(n.t, err)
	_, err = n.Node.NodeUnstageVolume(n.t.Context(),
		&csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: n.stagingPath(id)})
	fixture.Must(n.t, err)
}

func (n *node) expand(id string, v oldVolume, bytes int64) {
	n.t.Helper()
	_, err := n.Node.NodeExpandVolume(n.t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: id, VolumePath: n.target(id), StagingTargetPath: n.stagingPath(id),
		CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}, VolumeCapability: v.capability(),
	})
	fixture.Must(n.t, err)
}

// The pod of the inline volume, and kubelet's handle (pkg/volume/csi, makeVolumeHandle).
const (
	podUID     = "0f0e0d0c-0b0a-0908-0706-050403020100"
	inlineName = "inline"
)

func inlineHandle() string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(podUID+inlineName)))
}

func (n *node) inlineTarget() string {
	return filepath.Join(n.KubeletDir(), "pods", podUID, "volumes/kubernetes.io~csi", inlineName,
		"mount")
}

// publishInline publishes the inline volume, and returns where it is.
func (n *node) publishInline() (target string) {
	n.t.Helper()
	fixture.Must(n.t, os.MkdirAll(filepath.Dir(n.inlineTarget()), 0o750))
	fixture.Must(n.t, os.WriteFile(filepath.Join(filepath.Dir(n.inlineTarget()), "vol_data.json"),
		fmt.Appendf(nil, `{"driverName":"hostpath.csi.local","specVolID":%q,"volumeHandle":%q,`+
			`"volumeLifecycleMode":"Ephemeral"}`, inlineName, inlineHandle()), 0o600))
	_, err := n.Node.NodePublishVolume(n.t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: inlineHandle(), TargetPath: n.inlineTarget(),
		VolumeCapability: oldVolume{}.capability(),
		VolumeContext: map[string]string{
			volume.AttrPodName: "web", volume.AttrPodNamespace: "shop", volume.AttrPodUID: podUID,
			volume.AttrEphemeral: "true", "size": "8Mi",
		},
	})
	fixture.Must(n.t, err)
	return n.inlineTarget()
}

func (n *node) unpublishInline() {
	n.t.Helper()
	_, err := n.Node.NodeUnpublishVolume(n.t.Context(), &csi.NodeUnpublishVolumeRequest{
		VolumeId: inlineHandle(), TargetPath: n.inlineTarget(),
	})
	fixture.Must(n.t, err)
}

// wantEntries waits until the pool has so many volumes and snapshots, and nothing else.
func (n *node) wantEntries(volumes, snapshots int) {
	n.t.Helper()
	have := func() []int {
		var counts []int
		for _, dir := range []string{"volumes", "snapshots", "tmp", "trash"} {
			counts = append(counts, len(n.entries(dir)))
		}
		return counts
	}
	want := []int{volumes, snapshots, 0, 0}
	fixture.Eventually(n.t, fmt.Sprintf("volumes/, snapshots/, tmp/, trash/ have %d entries", want),
		func() bool { return slices.Equal(have(), want) }, func() any { return have() })
}

// entries are the names in a directory of the pool.
func (n *node) entries(dir string) []string {
	n.t.Helper()
	return n.Entries(poolName, dir)
}

// record is that of a volume, by the name of its directory.
func (n *node) record(dir string) map[string]any {
	n.t.Helper()
	return records(n.t, n.Path(poolName))[filepath.Join("volumes", dir, "volume.json")]
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
