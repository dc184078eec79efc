// Package hostpaths tests what pods can get from their node: paths that the operator allows, and
// volumes that live with the pod. It runs the driver as a process and makes kubelet's calls.
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

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	content = "precious"
)

// driver builds the driver with failpoints at the first call, and returns its path.
var driver func() (string, error)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hostpaths-")
	if err != nil {
		panic(err)
	}
	driver = sync.OnceValues(func() (string, error) {
		return process.Build(context.Background(), dir, "failpoint")
	})
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// node is a node with a pool, a directory that stands for kubelet's, files of the host, and a
// driver.
type node struct {
	*fixture.Driver

	t *testing.T
}

// newNode starts a driver with these rules. {srv} in the rules is replaced by the directory with
// the host's files.
func newNode(t *testing.T, rules string) *node {
	t.Helper()
	disks.RequireRoot(t)
	n := &node{t: t}
	dir := t.TempDir()
	t.Cleanup(n.unmountAll) // runs after the driver was killed and before the directory is removed
	binary, err := driver()
	fixture.Must(t, err)
	n.Driver = fixture.NewDriver(t, process.Options{Binary: binary, Dir: dir})
	n.mkdir("srv")
	n.mkdir("pool")
	config := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" +
		"pools: [{name: p, path: " + n.Path("pool") + "}]\n" +
		"hostPaths: " + strings.ReplaceAll(rules, "{srv}", n.Path("srv")) + "\n"
	n.write(n.Path("config.yaml"), config)
	n.SetArgs("--config", n.Path("config.yaml"), "--v=4")
	n.Start()
	return n
}

// unmountAll removes all mounts, so that the cleanup removes no file through a mount.
func (n *node) unmountAll() {
	for _, m := range slices.Backward(n.Mounts()) {
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			n.t.Error(err)
		}
	}
}

func (n *node) mkdir(elements ...string) string {
	n.t.Helper()
	n.Must(os.MkdirAll(n.Path(elements...), 0o755))
	return n.Path(elements...)
}

func (n *node) write(path, text string) {
	n.t.Helper()
	n.Must(os.WriteFile(path, []byte(text), 0o600))
}

func (n *node) wantContent(path, want string) {
	n.t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		n.t.Errorf("%s has %q, %v, want %q", path, got, err, want)
	}
}

func (n *node) wantCode(err error, code codes.Code, words ...string) {
	n.t.Helper()
	if status.Code(err) != code {
		n.t.Errorf("%v, want %v", err, code)
	}
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			n.t.Errorf("%v: does not say %q", err, word)
		}
	}
}

// volumes returns the names of the directories of the pool's volumes.
func (n *node) volumes() []string {
	n.t.Helper()
	return n.Entries("pool", "volumes")
}

// wantNothingLeft checks that nothing is mounted, and waits until the pool is empty.
func (n *node) wantNothingLeft() {
	n.t.Helper()
	if m := n.Mounts(); len(m) > 0 {
		n.t.Errorf("still mounted: %q", m)
	}
	left := func() (names []string) {
		for _, dir := range []string{"volumes", "tmp", "trash"} {
			names = append(names, n.Entries("pool", dir)...)
		}
		return names
	}
	fixture.Eventually(n.t, "the pool is empty", func() bool { return len(left()) == 0 },
		func() any { return left() })
}

// pod is what kubelet knows of a pod.
type pod struct{ uid, namespace string }

// volumeOf is one volume of a pod, with what kubelet puts into its calls.
type volumeOf struct {
	pod        pod
	name       string // the volume's name in the pod
	handle     string
	inline     bool
	readOnly   bool
	group      string // the pod's fsGroup
	mode       csi.VolumeCapability_AccessMode_Mode
	attributes map[string]string
}

// inline returns a volume that is written in the pod. Kubelet makes its handle (pkg/volume/csi,
// makeVolumeHandle).
func inline(p pod, name string, attributes ...string) volumeOf {
	handle := fmt.Sprintf("csi-%x", sha256.Sum256([]byte(p.uid+name)))
	return volumeOf{pod: p, name: name, handle: handle, inline: true, attributes: pairs(attributes)}
}

// persistent returns a volume of a PersistentVolume, written by hand or made by a class.
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

func (n *node) target(v volumeOf) string {
	return filepath.Join(n.KubeletDir(), "pods", v.pod.uid, "volumes/kubernetes.io~csi", v.name,
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

// kubeletSays returns the attributes of kubelet's call: the user's, and the pod's information,
// which replaces attributes of the same name (getPodInfoAttrs and mergeMap).
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

// kubeletWrites returns the file that kubelet writes beside a target (saveVolumeData in
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

// publish makes the pod's directory, stages the volume unless it is inline, and publishes it.
func (n *node) publish(v volumeOf) error { return n.publishWith(v, v.kubeletSays()) }

func (n *node) publishWith(v volumeOf, attributes map[string]string) error {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), fixture.Patience())
	defer cancel()
	return n.publishUntil(ctx, v, attributes)
}

// publishUntil waits as long as the context.
func (n *node) publishUntil(ctx context.Context, v volumeOf, attributes map[string]string) error {
	n.t.Helper()
	target := n.target(v)
	n.Must(os.MkdirAll(filepath.Dir(target), 0o750))
	n.write(filepath.Join(filepath.Dir(target), "vol_data.json"), v.kubeletWrites())
	staging := ""
	if !v.inline {
		staging = filepath.Join(n.KubeletDir(), "plugins/staging")
		if _, err := n.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
			VolumeId: v.handle, StagingTargetPath: staging,
			VolumeCapability: v.capability(), VolumeContext: attributes,
		}); err != nil {
			return err
		}
	}
	_, err := n.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          v.handle,
		StagingTargetPath: staging,
		TargetPath:        target,
		VolumeCapability:  v.capability(),
		VolumeContext:     attributes,
		Readonly:          v.readOnly,
	})
	return err
}

func (n *node) unpublish(v volumeOf) error {
	ctx, cancel := context.WithTimeout(n.t.Context(), fixture.Patience())
	defer cancel()
	_, err := n.Node.NodeUnpublishVolume(ctx,
		&csi.NodeUnpublishVolumeRequest{VolumeId: v.handle, TargetPath: n.target(v)})
	return err
}

// endPod removes the pod's directory, as kubelet does after the pod's volumes were unpublished.
func (n *node) endPod(p pod) {
	n.t.Helper()
	n.Must(os.RemoveAll(filepath.Join(n.KubeletDir(), "pods", p.uid)))
}

// startUnready starts a driver whose pool cannot be opened, and waits until the driver answers.
func startUnready(n *node) (*process.Process, error) {
	p, err := process.Start(n.Options())
	if err != nil {
		return nil, err
	}
	_, err = p.Identity.GetPluginInfo(n.t.Context(), &csi.GetPluginInfoRequest{},
		grpc.WaitForReady(true))
	return p, err
}
