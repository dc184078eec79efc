// Package hostpaths holds the driver to what pods may have of their node: paths that the operator
// allows, and volumes that live with the pod. It runs the driver as its own process and speaks to
// it as kubelet does.
package hostpaths

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	// patience bounds how long a test waits for what happens in the background.
	patience = 20 * time.Second
	content  = "precious"
)

// built is the driver with failpoints, made once for all tests.
var built struct {
	once sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hostpaths")
	if err != nil {
		panic(err)
	}
	built.path = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

func driverBinary(t *testing.T) string {
	t.Helper()
	built.once.Do(
		func() { built.path, built.err = process.Build(context.Background(), built.path, "failpoint") },
	)
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// world is a node: a pool, a kubelet's directory and files of the host, and the driver that serves
// them.
type world struct {
	*process.Process
	t   *testing.T
	dir string
	log *process.Log
}

// newWorld starts a driver with those rules; {srv} in them is the host's directory.
func newWorld(t *testing.T, rules string) *world {
	t.Helper()
	disks.RequireRoot(t)
	w := &world{t: t, dir: t.TempDir(), log: &process.Log{}}
	w.mkdir("srv")
	w.mkdir("pool")
	config := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\npools: [{name: p, path: " + w.path(
		"pool",
	) + "}]\nhostPaths: " +
		strings.ReplaceAll(rules, "{srv}", w.path("srv")) + "\n"
	w.write(w.path("config.yaml"), config)
	t.Cleanup(w.end)
	w.start()
	return w
}

// end kills the driver and takes everything off that is mounted: nothing is ever removed through a
// mount.
func (w *world) end() {
	if w.Process != nil {
		if err := w.Kill(); err != nil {
			w.t.Error(err)
		}
	}
	for _, m := range slices.Backward(w.mounts()) {
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			w.t.Error(err)
		}
	}
	if w.t.Failed() {
		w.t.Logf("the driver's log:\n%s", w.log)
	}
}

// mounts are the mount points in the world.
func (w *world) mounts() []string {
	table, err := mount.Table()
	if err != nil {
		w.t.Fatal(err)
	}
	var points []string
	for _, m := range table {
		if strings.HasPrefix(m.Point, w.dir+"/") {
			points = append(points, m.Point)
		}
	}
	return points
}

func (w *world) options(env ...string) process.Options {
	return process.Options{
		Binary: driverBinary(w.t),
		Dir:    w.dir,
		Args:   []string{"--config", w.path("config.yaml"), "--v=4"},
		Env:    env,
		Log:    w.log,
	}
}

func (w *world) start(env ...string) {
	w.t.Helper()
	p, err := process.StartReady(w.t.Context(), w.options(env...))
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.log)
	}
	w.Process = p
}

func (w *world) restart(env ...string) {
	w.t.Helper()
	w.must(w.Kill())
	w.start(env...)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

func (w *world) mkdir(elements ...string) string {
	w.t.Helper()
	w.must(os.MkdirAll(w.path(elements...), 0o755))
	return w.path(elements...)
}

func (w *world) write(path, text string) {
	w.t.Helper()
	w.must(os.WriteFile(path, []byte(text), 0o600))
}

func (w *world) wantContent(path, want string) {
	w.t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		w.t.Errorf("%s has %q, %v, want %q", path, got, err, want)
	}
}

func (w *world) wantCode(err error, code codes.Code, words ...string) {
	w.t.Helper()
	if status.Code(err) != code {
		w.t.Errorf("%v, want %v", err, code)
	}
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			w.t.Errorf("%v: does not say %q", err, word)
		}
	}
}

// volumes are the directories of the pool's volumes.
func (w *world) volumes() []string {
	w.t.Helper()
	entries, err := os.ReadDir(w.path("pool/volumes"))
	w.must(err)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// wantNothingLeft looks at the pool and the mounts, a while.
func (w *world) wantNothingLeft() {
	w.t.Helper()
	if m := w.mounts(); len(m) > 0 {
		w.t.Errorf("still mounted: %q", m)
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var left []string
		for _, dir := range []string{"volumes", "tmp", "trash"} {
			entries, err := os.ReadDir(w.path("pool", dir))
			w.must(err)
			for _, e := range entries {
				left = append(left, dir+"/"+e.Name())
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("the pool still has %q", left)
		}
	}
}

// pod is what kubelet knows of one.
type pod struct{ uid, namespace string }

// volumeOf is one volume of a pod, as kubelet asks for it.
type volumeOf struct {
	pod        pod
	name       string // in the pod
	handle     string
	inline     bool
	readOnly   bool
	group      string // the pod's fsGroup
	mode       csi.VolumeCapability_AccessMode_Mode
	attributes map[string]string
}

// inline is a volume that is written in the pod. Its handle is kubelet's (pkg/volume/csi,
// makeVolumeHandle).
func inline(p pod, name string, attributes ...string) volumeOf {
	handle := fmt.Sprintf("csi-%x", sha256.Sum256([]byte(p.uid+name)))
	return volumeOf{pod: p, name: name, handle: handle, inline: true, attributes: pairs(attributes)}
}

// persistent is a volume of a PV that somebody wrote, or that a class made.
func persistent(p pod, handle string, attributes ...string) volumeOf {
	return volumeOf{pod: p, name: "pv", handle: handle, attributes: pairs(attributes)}
}

func pairs(list []string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

func (w *world) target(v volumeOf) string {
	return filepath.Join(w.KubeletDir(), "pods", v.pod.uid, "volumes/kubernetes.io~csi", v.name,
		"mount")
}

func (v volumeOf) capability() *csi.VolumeCapability {
	mode := v.mode
	if mode == csi.VolumeCapability_AccessMode_UNKNOWN {
		mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{
			Mount: &csi.VolumeCapability_MountVolume{VolumeMountGroup: v.group},
		},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

// kubeletSays are the attributes with the pod's information over what the user wrote
// (getPodInfoAttrs and mergeMap).
func (v volumeOf) kubeletSays() map[string]string {
	all := maps.Clone(v.attributes)
	maps.Copy(all, map[string]string{
		volume.AttrPodName:                       "pod",
		volume.AttrPodNamespace:                  v.pod.namespace,
		volume.AttrPodUID:                        v.pod.uid,
		"csi.storage.k8s.io/serviceAccount.name": "default",
		volume.AttrEphemeral:                     strconv.FormatBool(v.inline),
	})
	return all
}

// kubeletWrites is what kubelet keeps beside a target (saveVolumeData in
// pkg/volume/csi/csi_util.go).
func (v volumeOf) kubeletWrites() string {
	lifecycle := "Persistent"
	if v.inline {
		lifecycle = "Ephemeral"
	}
	return fmt.Sprintf(
		`{"attachmentID":"csi-0","driverName":"hostpath.csi.local","nodeName":"node-1","specVolID":%q,"volumeHandle":%q,`+
			`"volumeLifecycleMode":%q}`,
		v.name,
		v.handle,
		lifecycle,
	)
}

// publish stages what is not inline and publishes it; the pod's directory is there before.
func (w *world) publish(v volumeOf) error { return w.publishWith(v, v.kubeletSays()) }

func (w *world) publishWith(v volumeOf, attributes map[string]string) error {
	w.t.Helper()
	target := w.target(v)
	w.must(os.MkdirAll(filepath.Dir(target), 0o750))
	w.write(filepath.Join(filepath.Dir(target), "vol_data.json"), v.kubeletWrites())
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	staging := ""
	if !v.inline {
		staging = filepath.Join(w.KubeletDir(), "plugins/staging")
		if _, err := w.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
			VolumeId: v.handle, StagingTargetPath: staging,
			VolumeCapability: v.capability(), VolumeContext: attributes,
		}); err != nil {
			return err
		}
	}
	_, err := w.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          v.handle,
		StagingTargetPath: staging,
		TargetPath:        target,
		VolumeCapability:  v.capability(),
		VolumeContext:     attributes,
		Readonly:          v.readOnly,
	})
	return err
}

func (w *world) unpublish(v volumeOf) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	_, err := w.Node.NodeUnpublishVolume(ctx,
		&csi.NodeUnpublishVolumeRequest{VolumeId: v.handle, TargetPath: w.target(v)})
	return err
}

// endPod removes the pod's directory, as kubelet does when its volumes are gone.
func (w *world) endPod(p pod) {
	w.t.Helper()
	w.must(os.RemoveAll(filepath.Join(w.KubeletDir(), "pods", p.uid)))
}

// startUnready starts a driver whose pool cannot be opened, and waits until it answers.
func startUnready(w *world) (*process.Process, error) {
	p, err := process.Start(w.options())
	if err != nil {
		return nil, err
	}
	_, err = p.Identity.GetPluginInfo(w.t.Context(), &csi.GetPluginInfoRequest{},
		grpc.WaitForReady(true))
	return p, err
}
