// Package nodechecks runs the driver's own process on nodes that are not fit for it: in mount
// namespaces that share nothing, behind links, on disks that are mounted otherwise than expected.
package nodechecks

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// Where kubelet has the directory above a target, and a staging path, below its directory.
const (
	podDir      = "pods/6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7a2f1/volumes/kubernetes.io~csi/pvc-1"
	stagingPath = "plugins/kubernetes.io/csi/hostpath.csi.local/8d5a4f/globalmount"
)

// node is a node with a pool and kubelet's directory, which is a mount of its own that is shared
// with the mount namespaces that are made of this one.
type node struct {
	*fixture.Driver

	t       *testing.T
	dir     string
	address string // of the pages
	pools   map[string]string
}

// newNode prepares a node. No driver runs yet.
func newNode(t *testing.T) *node {
	t.Helper()
	disks.RequireRoot(t)
	n := &node{t: t, dir: t.TempDir(), address: freeAddress(t)}
	n.pools = map[string]string{"default": n.path("pool")}
	t.Cleanup(n.unmountAll)
	n.mkdir("pool")
	n.mkdir("kubelet")
	n.bind("kubelet", "kubelet")
	n.remount("kubelet", unix.MS_SHARED)
	n.mkdir("kubelet", podDir)
	return n
}

// run starts the driver with a shell command before it, which ends in exec and its arguments. It
// does not wait until the driver is ready.
func (n *node) run(before string, args ...string) *process.Process {
	n.t.Helper()
	p, err := process.Start(n.prepare(before, args...).Options())
	fixture.Must(n.t, err)
	n.Process = p
	return p
}

func (n *node) prepare(before string, args ...string) *fixture.Driver {
	n.t.Helper()
	script := filepath.Join(n.dir, "driver")
	const text = "#!/bin/sh\nset -e\ndriver=%s\n%s $driver \"$@\"\n"
	fixture.Must(n.t,
		os.WriteFile(script, fmt.Appendf(nil, text, fixture.Build(n.t), before), 0o700))
	n.Driver = fixture.NewDriver(n.t, process.Options{
		Binary: script,
		Dir:    n.dir,
		Pools:  n.pools,
		Args:   append([]string{"--metrics-address", n.address}, args...),
	})
	return n.Driver
}

// requireMountpoint gives the pool another path, and needs something to be mounted there. It
// returns the arguments for run.
func (n *node) requireMountpoint(path string) []string {
	n.t.Helper()
	n.pools = nil
	config := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" +
		"pools: [{name: default, requireMountpoint: true, path: " + path + "}]\n"
	fixture.Must(n.t, os.WriteFile(n.path("config.yaml"), []byte(config), 0o600))
	return []string{"--config", n.path("config.yaml")}
}

// ready is what Probe says; false until the driver answers.
func (n *node) ready() bool {
	resp, err := n.Identity.Probe(n.t.Context(), &csi.ProbeRequest{})
	return err == nil && resp.GetReady().GetValue()
}

// wantReady waits until the driver is ready.
func (n *node) wantReady() {
	n.t.Helper()
	fixture.Must(n.t, n.WaitReady(n.t.Context()))
}

// wantNotReady waits until the page says a line, and wants Probe and the page to agree.
func (n *node) wantNotReady(line string) {
	n.t.Helper()
	var code int
	var body string
	fixture.Eventually(n.t, "the page says "+line, func() bool {
		code, body = n.page("/readyz")
		return body == line+" (the driver's log has more)\n"
	}, func() any { return body })
	if code != http.StatusServiceUnavailable {
		n.t.Errorf("/readyz is %d, want 503", code)
	}
	if n.ready() {
		n.t.Error("Probe says ready")
	}
}

func (n *node) page(path string) (int, string) {
	n.t.Helper()
	url := "http://" + n.address + path
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, url, nil)
	fixture.Must(n.t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fixture.Must(n.t, err)
	return resp.StatusCode, string(body)
}

// publish makes, stages and publishes a volume by the names that kubelet has for its directory.
func (n *node) publish(kubeletDir string) error {
	n.t.Helper()
	made, err := n.Controller.CreateVolume(n.t.Context(), &csi.CreateVolumeRequest{
		Name:               "v",
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 1 << 20},
		VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
	})
	fixture.Must(n.t, err)
	staging := filepath.Join(kubeletDir, stagingPath)
	if _, err := n.Node.NodeStageVolume(n.t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId:          made.GetVolume().GetVolumeId(),
		StagingTargetPath: staging,
		VolumeCapability:  fixture.MountCapability(""),
	}); err != nil {
		return err
	}
	_, err = n.Node.NodePublishVolume(n.t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId:          made.GetVolume().GetVolumeId(),
		StagingTargetPath: staging,
		TargetPath:        filepath.Join(kubeletDir, podDir, "mount"),
		VolumeCapability:  fixture.MountCapability(""),
	})
	return err
}

// isPublished reports whether the node sees the volume where kubelet looks.
func (n *node) isPublished() bool {
	n.t.Helper()
	return slices.Contains(n.mounts(), filepath.Join(n.dir, "kubelet", podDir, "mount"))
}

func (n *node) mounts() []string {
	n.t.Helper()
	return mountsBelow(n.t, n.dir)
}

func (n *node) path(elements ...string) string {
	return filepath.Join(append([]string{n.dir}, elements...)...)
}

func (n *node) mkdir(elements ...string) {
	n.t.Helper()
	fixture.Must(n.t, os.MkdirAll(n.path(elements...), 0o750))
}

// bind mounts one directory of the node on another one.
func (n *node) bind(source, point string) {
	n.t.Helper()
	fixture.Must(n.t, unix.Mount(n.path(source), n.path(point), "", unix.MS_BIND, ""))
}

// remount changes the propagation or the flags of a mount.
func (n *node) remount(point string, how uintptr) {
	n.t.Helper()
	fixture.Must(n.t, unix.Mount("", n.path(point), "", how, ""))
}

// unmountAll takes everything off: nothing is ever removed through a mount. With a mount its copies
// in the same peer group go, so the table is read again each time.
func (n *node) unmountAll() {
	for points := n.mounts(); len(points) > 0; points = n.mounts() {
		if err := unix.Unmount(points[len(points)-1], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			n.t.Error(err)
			return
		}
	}
}

// freeAddress is one of the loopback interface that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	fixture.Must(t, err)
	defer listener.Close()
	return listener.Addr().String()
}
