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
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/mount-utils"

	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	// volumeBytes is what each volume is promised; the filesystem has room for several.
	volumeBytes = 32 << 20
	grownBytes  = 48 << 20
	// patience bounds how long a test waits for what happens in the background.
	patience = time.Minute
	content  = "precious"
)

// world is a pool and a kubelet's directory on a test's disk, and the driver that serves them, dead
// or alive. All of it lies on the disk, which is unmounted with everything that is bound from it:
// nothing is ever removed through a mount.
type world struct {
	t      *testing.T
	binary string
	dir    string
	driver *process.Process
	log    *process.Log
	// metricsAddress is where the drivers show their ledger.
	metricsAddress string
	grown          int64 // what all volumes together have more than volumeBytes each
	// slow holds the copies of the drivers that are started to the least rate there is.
	slow bool
}

var worlds atomic.Uint32

// nextAddress is of the loopback network, which has 16 million addresses: nobody else listens on
// one made of this process's ID.
func nextAddress() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d:19099", pid>>8&0xff, pid&0xff, 1+worlds.Add(1)%254)
}

// newWorld has no driver yet.
func newWorld(t *testing.T, binary, dir string) *world {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, binary: binary, dir: dir, log: &process.Log{}, metricsAddress: nextAddress()}
	t.Cleanup(func() {
		if err := w.kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the drivers' log:\n%s", w.log)
		}
	})
	return w
}

func (w *world) options(env ...string) process.Options {
	if w.slow {
		return process.Options{
			Binary: w.binary, Dir: w.dir, Env: env, Log: w.log,
			Args: []string{"--metrics-address", w.metricsAddress, "--config", w.slowConfig()},
		}
	}
	return process.Options{
		Binary: w.binary, Dir: w.dir, Pools: map[string]string{"p": w.path("pool")},
		Args: []string{"--metrics-address", w.metricsAddress}, Env: env, Log: w.log,
	}
}

// slowConfig is the file with the world's pool, whose copies take a second for each MiB after the
// first.
func (w *world) slowConfig() string {
	w.t.Helper()
	config := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\npools:\n" +
		"- {name: p, path: " + w.path("pool") + ", copyBytesPerSecond: 1Mi}\n"
	if err := os.WriteFile(w.path("config.yaml"), []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return w.path("config.yaml")
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// start starts a driver that is ready.
func (w *world) start(env ...string) {
	w.t.Helper()
	d, err := process.StartReady(w.t.Context(), w.options(env...))
	if err != nil {
		w.t.Fatal(err)
	}
	w.driver = d
}

func (w *world) kill() error {
	if w.driver == nil {
		return nil
	}
	d := w.driver
	w.driver = nil
	return d.Kill()
}

func (w *world) restart(env ...string) {
	w.t.Helper()
	if err := w.kill(); err != nil {
		w.t.Fatal(err)
	}
	w.start(env...)
}

// mountCapability is what Kubernetes sends for ReadWriteOnce.
func mountCapability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{
			Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		},
	}
}

func (w *world) create(ctx context.Context, name, volumeType string) (string, error) {
	resp, err := w.driver.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: volumeBytes, LimitBytes: volumeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{mountCapability()},
		Parameters:         map[string]string{"type": volumeType},
	})
	return resp.GetVolume().GetVolumeId(), err
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
	}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
	}}
}

func (w *world) copy(
	ctx context.Context, name, volumeType string, source *csi.VolumeContentSource,
) (string, error) {
	resp, err := w.driver.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:                name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: volumeBytes, LimitBytes: volumeBytes},
		VolumeCapabilities:  []*csi.VolumeCapability{mountCapability()},
		Parameters:          map[string]string{"type": volumeType},
		VolumeContentSource: source,
	})
	return resp.GetVolume().GetVolumeId(), err
}

// takeSnapshot returns the ID that the snapshot will have also when it fails.
func (w *world) takeSnapshot(ctx context.Context, name, source string) (string, error) {
	_, err := w.driver.Controller.CreateSnapshot(ctx,
		&csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	return strings.Replace(source, "-", "-s-", 1)[:len("0123456789ab-s-")] + name, err
}

func (w *world) deleteSnapshot(ctx context.Context, id string) error {
	_, err := w.driver.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
	return err
}

func (w *world) expand(ctx context.Context, id, target string) error {
	_, err := w.driver.Node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: id, VolumePath: target, CapacityRange: &csi.CapacityRange{RequiredBytes: grownBytes},
	})
	return err
}

func (w *world) delete(ctx context.Context, id string) error {
	_, err := w.driver.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

func (w *world) publish(ctx context.Context, id, target string) error {
	_, err := w.driver.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          id,
		TargetPath:        target,
		StagingTargetPath: w.path("kubelet", "staging"),
		VolumeCapability:  mountCapability(),
	})
	return err
}

func (w *world) unpublish(ctx context.Context, id, target string) error {
	_, err := w.driver.Node.NodeUnpublishVolume(ctx,
		&csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target})
	return err
}

// target is the path at which a pod would see a volume. Kubelet makes its parent.
func (w *world) target(pod string) string {
	w.t.Helper()
	parent := w.path("kubelet", "pods", pod)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return filepath.Join(parent, "mount")
}

// volumes are the IDs that the driver lists.
func (w *world) volumes() []string {
	w.t.Helper()
	resp, err := w.driver.Controller.ListVolumes(w.t.Context(), &csi.ListVolumesRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for _, e := range resp.GetEntries() {
		ids = append(ids, e.GetVolume().GetVolumeId())
	}
	return ids
}

// wantClean checks all that a crash could leave behind, given the volumes that there ought to be
// and the number of mounts.
func (w *world) wantClean(mounts int, ids ...string) {
	w.t.Helper()
	slices.Sort(ids)
	if got := w.volumes(); !slices.Equal(got, ids) {
		w.t.Errorf("the driver lists %q, want %q", got, ids)
	}
	w.eventually("the trash is purged and its space given back", func() bool {
		return len(w.discarded()) == 0 &&
			w.ledger() == [2]int64{int64(len(ids))*volumeBytes + w.grown + w.shared(), 0}
	})
	if got := w.entries("pool", "volumes"); len(got) != len(ids) {
		w.t.Errorf("volumes/ has %q, want %q", got, ids)
	}
	if got, want := w.entries(
		"pool",
	), []string{
		"lock",
		"pool.json",
		"snapshots",
		"tmp",
		"trash",
		"volumes",
	}; !slices.Equal(
		got, want,
	) {
		w.t.Errorf("the pool has %q, want %q", got, want)
	}
	if got := w.mounts(); len(got) != mounts {
		w.t.Errorf("mounted are %q, want %d", got, mounts)
	}
}

// wantSnapshots compares the snapshots that there are with one, or none.
func (w *world) wantSnapshots(id string) {
	w.t.Helper()
	resp, err := w.driver.Controller.ListSnapshots(w.t.Context(), &csi.ListSnapshotsRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	want := 1
	if id == "" {
		want = 0
	}
	if got := resp.GetEntries(); len(got) != want ||
		want == 1 && got[0].GetSnapshot().GetSnapshotId() != id {
		w.t.Errorf("the driver lists the snapshots %v, want %q", got, id)
	}
	if got := w.entries("pool", "snapshots"); len(got) != want {
		w.t.Errorf("snapshots/ has %q, want %d", got, want)
	}
}

// shared is what the records on disk say that snapshots hold, and what clones share with their
// sources.
func (w *world) shared() int64 {
	var sum int64
	w.t.Helper()
	records, err := filepath.Glob(w.path("pool", "*", "*", "*.json"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range records {
		if strings.HasPrefix(path, w.path("pool", "t")) { // tmp/ and trash/
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		var record struct{ HeldBytes, SharedBytes int64 }
		if err := json.Unmarshal(content, &record); err != nil {
			w.t.Fatal(err)
		}
		sum += record.HeldBytes + record.SharedBytes
	}
	return sum
}

// discarded is what is deleted, or was never finished, and not purged yet.
func (w *world) discarded() []string {
	w.t.Helper()
	left := append(w.entries("pool", "tmp"), w.entries("pool", "trash")...)
	for _, dir := range []string{"volumes", "snapshots"} {
		for _, name := range w.entries("pool", dir) {
			info, err := os.Lstat(w.path("pool", dir, name))
			if err == nil && info.Mode() == os.ModeDir|os.ModeSetuid|os.ModeSetgid|os.ModeSticky {
				left = append(left, name)
			}
		}
	}
	return left
}

// ledger is what is committed to volumes and what the trash still holds.
func (w *world) ledger() [2]int64 {
	w.t.Helper()
	return [2]int64{w.metric("committed_bytes"), w.metric("trash_bytes")}
}

// metric is one of the pool's.
func (w *world) metric(name string) int64 {
	w.t.Helper()
	resp, err := http.Get("http://" + w.metricsAddress + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(metrics), "\ncsi_hostpath_pool_"+name+`{pool="p"} `)
	number, _, _ := strings.Cut(rest, "\n")
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	return int64(value)
}

// mounts are the points below the kubelet's directory, with repetitions.
func (w *world) mounts() []string {
	w.t.Helper()
	infos, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	var points []string
	for _, info := range infos {
		if strings.HasPrefix(info.MountPoint, w.path("kubelet")+"/") {
			points = append(points, info.MountPoint)
		}
	}
	return points
}

func (w *world) entries(elements ...string) []string {
	w.t.Helper()
	list, err := os.ReadDir(w.path(elements...))
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func (w *world) eventually(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not after %s: %s (left is %q, the ledger %d)", patience, what, w.discarded(),
				w.ledger())
		}
	}
}

// dataPath is where a pool keeps a volume's data: a file volume's in a directory of its own where
// only directories have a size.
func dataPath(volume string) string {
	held := filepath.Join(volume, "holder", "data")
	if _, err := os.Lstat(held); err == nil {
		return held
	}
	return filepath.Join(volume, "data")
}

// file is where a volume's content is: itself, or a file in it.
func file(path, volumeType string) string {
	if volumeType == "FileOrCreate" {
		return path
	}
	return filepath.Join(path, "file")
}

func write(t *testing.T, path string) {
	t.Helper()
	// Not os.Create, which would truncate: what a failed test left must show.
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

// must is for the calls that prepare a test.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// buildDriver makes the binary for the length of the test.
func buildDriver(t *testing.T, build func(ctx context.Context, dir string) (string, error)) string {
	t.Helper()
	binary, err := build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

func failpoint(n int) string { return fmt.Sprintf("CSI_HOSTPATH_FAILPOINT=:%d", n) }
