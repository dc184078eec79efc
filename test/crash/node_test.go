package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	// volumeBytes is the size of each volume. The filesystem has room for several volumes.
	volumeBytes = 32 << 20
	grownBytes  = 48 << 20
	content     = "precious"
)

// node is a node with a pool and a directory that stands for kubelet's. Both are on the test's
// disk. At the end the disk is unmounted with all its bind mounts, so that the cleanup removes no
// file through a mount.
type node struct {
	*fixture.Driver

	t *testing.T
	// metricsAddress is where the drivers serve /metrics, which has the ledger.
	metricsAddress string
	grown          int64 // the bytes by which the volumes together exceed volumeBytes each
}

var nodes atomic.Uint32

// nextAddress returns an address of the loopback network that contains this process's ID, so that
// no other process listens on it.
func nextAddress() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d:19099", pid>>8&0xff, pid&0xff, 1+nodes.Add(1)%254)
}

// newNode returns a node whose driver is not started yet.
func newNode(t *testing.T, binary, dir string) *node {
	t.Helper()
	fixture.Must(t, os.Mkdir(dir, 0o755))
	n := &node{t: t, metricsAddress: nextAddress()}
	n.Driver = fixture.NewDriver(t, process.Options{Binary: binary, Dir: dir})
	n.setPool("")
	return n
}

// slowCopies are options of a pool: a copy takes a second for each MiB after the first one.
const slowCopies = "copyBytesPerSecond: 1Mi"

// setPool sets the pool's options for the drivers that are started from now on.
func (n *node) setPool(options string) {
	n.t.Helper()
	config := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" +
		"pools: [{name: p, path: " + n.Path("pool") + ", " + options + "}]\n"
	n.Must(os.WriteFile(n.Path("config.yaml"), []byte(config), 0o600))
	n.SetArgs("--metrics-address", n.metricsAddress, "--config", n.Path("config.yaml"))
}

func (n *node) create(ctx context.Context, name, volumeType string) (string, error) {
	resp, err := n.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: volumeBytes, LimitBytes: volumeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
		Parameters:         map[string]string{"type": volumeType},
	})
	return resp.GetVolume().GetVolumeId(), err
}

func (n *node) copy(
	ctx context.Context, name, volumeType string, source *csi.VolumeContentSource,
) (string, error) {
	resp, err := n.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:                name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: volumeBytes, LimitBytes: volumeBytes},
		VolumeCapabilities:  []*csi.VolumeCapability{fixture.MountCapability("")},
		Parameters:          map[string]string{"type": volumeType},
		VolumeContentSource: source,
	})
	return resp.GetVolume().GetVolumeId(), err
}

// takeSnapshot returns the snapshot's ID also if the call fails.
func (n *node) takeSnapshot(ctx context.Context, name, source string) (string, error) {
	_, err := n.Controller.CreateSnapshot(ctx,
		&csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	return strings.Replace(source, "-", "-s-", 1)[:len("0123456789ab-s-")] + name, err
}

func (n *node) deleteSnapshot(ctx context.Context, id string) error {
	_, err := n.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
	return err
}

func (n *node) expand(ctx context.Context, id, target string) error {
	_, err := n.Node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: id, VolumePath: target, CapacityRange: &csi.CapacityRange{RequiredBytes: grownBytes},
	})
	return err
}

func (n *node) delete(ctx context.Context, id string) error {
	_, err := n.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

func (n *node) publish(ctx context.Context, id, target string) error {
	return n.publishTo(ctx, "", id, target)
}

// publishTo publishes a volume for a pod with an fsGroup.
func (n *node) publishTo(ctx context.Context, group, id, target string) error {
	access := fixture.MountCapability("")
	access.GetMount().VolumeMountGroup = group
	_, err := n.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          id,
		TargetPath:        target,
		StagingTargetPath: n.Path("kubelet", "staging"),
		VolumeCapability:  access,
	})
	return err
}

func (n *node) unpublish(ctx context.Context, id, target string) error {
	_, err := n.Node.NodeUnpublishVolume(ctx,
		&csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target})
	return err
}

// target returns the path at which a pod would see a volume. It makes the parent, as kubelet does.
func (n *node) target(pod string) string {
	n.t.Helper()
	parent := n.Path("kubelet", "pods", pod)
	n.Must(os.MkdirAll(parent, 0o755))
	return filepath.Join(parent, "mount")
}

// volumes returns the IDs that the driver lists.
func (n *node) volumes() []string {
	n.t.Helper()
	resp, err := n.Controller.ListVolumes(n.t.Context(), &csi.ListVolumesRequest{})
	n.Must(err)
	var ids []string
	for _, e := range resp.GetEntries() {
		ids = append(ids, e.GetVolume().GetVolumeId())
	}
	return ids
}

// wantClean checks that a crash has left nothing behind but these volumes and that number of
// mounts.
func (n *node) wantClean(mounts int, ids ...string) {
	n.t.Helper()
	slices.Sort(ids)
	if got := n.volumes(); !slices.Equal(got, ids) {
		n.t.Errorf("the driver lists %q, want %q", got, ids)
	}
	n.eventually("the trash is purged and its space given back", func() bool {
		return len(n.leftovers()) == 0 &&
			n.ledger() == [2]int64{int64(len(ids))*volumeBytes + n.grown + n.shared(), 0}
	})
	if got := n.Entries("pool", "volumes"); len(got) != len(ids) {
		n.t.Errorf("volumes/ has %q, want %q", got, ids)
	}
	want := []string{"lock", "pool.json", "snapshots", "tmp", "trash", "volumes"}
	if got := n.Entries("pool"); !slices.Equal(got, want) {
		n.t.Errorf("the pool has %q, want %q", got, want)
	}
	if got := n.Mounts("kubelet"); len(got) != mounts {
		n.t.Errorf("the mounts are %q, want %d", got, mounts)
	}
}

// wantSnapshots checks that the only snapshot is the one with that ID, or that there is none if id
// is "".
func (n *node) wantSnapshots(id string) {
	n.t.Helper()
	resp, err := n.Controller.ListSnapshots(n.t.Context(), &csi.ListSnapshotsRequest{})
	n.Must(err)
	want := 1
	if id == "" {
		want = 0
	}
	if got := resp.GetEntries(); len(got) != want ||
		want == 1 && got[0].GetSnapshot().GetSnapshotId() != id {
		n.t.Errorf("the driver lists the snapshots %v, want %q", got, id)
	}
	if got := n.Entries("pool", "snapshots"); len(got) != want {
		n.t.Errorf("snapshots/ has %q, want %d", got, want)
	}
}

// shared returns the sum of the bytes that snapshots hold and that clones share with their sources,
// as the records on disk say.
func (n *node) shared() int64 {
	var sum int64
	n.t.Helper()
	records, err := filepath.Glob(n.Path("pool", "*", "*", "*.json"))
	n.Must(err)
	for _, path := range records {
		if strings.HasPrefix(path, n.Path("pool", "t")) { // in tmp/ or trash/
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			n.t.Fatal(err)
		}
		var record struct{ HeldBytes, SharedBytes int64 }
		if err := json.Unmarshal(content, &record); err != nil {
			n.t.Fatal(err)
		}
		sum += record.HeldBytes + record.SharedBytes
	}
	return sum
}

// leftovers returns the entries that are deleted or unfinished, and not purged yet.
func (n *node) leftovers() []string {
	n.t.Helper()
	left := append(n.Entries("pool", "tmp"), n.Entries("pool", "trash")...)
	for _, dir := range []string{"volumes", "snapshots"} {
		for _, name := range n.Entries("pool", dir) {
			info, err := os.Lstat(n.Path("pool", dir, name))
			if err == nil && info.Mode() == os.ModeDir|os.ModeSetuid|os.ModeSetgid|os.ModeSticky {
				left = append(left, name)
			}
		}
	}
	return left
}

// ledger returns the bytes that are promised to volumes, and those that the trash still has.
func (n *node) ledger() [2]int64 {
	n.t.Helper()
	return [2]int64{n.metric("committed_bytes"), n.metric("trash_bytes")}
}

// metric returns one metric of the pool.
func (n *node) metric(name string) int64 {
	n.t.Helper()
	resp, err := http.Get("http://" + n.metricsAddress + "/metrics")
	n.Must(err)
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	n.Must(err)
	_, rest, _ := strings.Cut(string(metrics), "\ncsi_hostpath_pool_"+name+`{pool="p"} `)
	number, _, _ := strings.Cut(rest, "\n")
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		n.t.Fatalf("%s: %v", name, err)
	}
	return int64(value)
}

func (n *node) eventually(what string, done func() bool) {
	n.t.Helper()
	fixture.Eventually(n.t, what, done, func() any {
		return fmt.Sprintf("left over %q, ledger %d", n.leftovers(), n.ledger())
	})
}

// dataPath returns the path of a volume's data. The data of a file volume is in a directory of its
// own if the filesystem limits only directories.
func dataPath(volume string) string {
	held := filepath.Join(volume, "holder", "data")
	if _, err := os.Lstat(held); err == nil {
		return held
	}
	return filepath.Join(volume, "data")
}

// file returns the path of the content: the file volume itself, or a file in a directory volume.
func file(path, volumeType string) string {
	if volumeType == "FileOrCreate" {
		return path
	}
	return filepath.Join(path, "file")
}

func write(t *testing.T, path string) {
	t.Helper()
	// Not os.Create, which would truncate the file and hide what a failed test has left.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(content)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, path string) {
	t.Helper()
	if got, err := os.ReadFile(path); string(got) != content {
		t.Errorf("%s has %q, %v, want %q", path, got, err, content)
	}
}

func failpoint(n int) string { return failpointOf("", n) }

// failpointOf arms the n-th of the failpoints whose names begin with the prefix.
func failpointOf(prefix string, n int) string {
	return fmt.Sprintf("CSI_HOSTPATH_FAILPOINT=%s:%d", prefix, n)
}
