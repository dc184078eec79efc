package hostpaths

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

var (
	podA = pod{uid: "6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7a2f1", namespace: "team-a"}
	podB = pod{uid: "0d4c1f9a-7d0b-4b52-8a39-3b8a8c3c9a52", namespace: "team-b"}
)

const everything = "[{path: '{srv}', inline: true}, " +
	"{path: '{srv}/null', types: [CharDevice], inline: true}, {path: '{srv}/loop', types: [BlockDevice], inline: true}]"

// putAll makes a file of each type that must exist before it can be published.
func (n *node) putAll() {
	n.t.Helper()
	n.mkdir("srv/dir")
	n.write(n.Path("srv/file"), content)
	listener, err := (&net.ListenConfig{}).Listen(n.t.Context(), "unix", n.Path("srv/sock"))
	n.Must(err)
	n.t.Cleanup(func() { listener.Close() })
	null, loop := int(unix.Mkdev(1, 3)), int(unix.Mkdev(7, 200)) //nolint:gosec // small numbers
	n.Must(unix.Mknod(n.Path("srv/null"), unix.S_IFCHR|0o666, null))
	n.Must(unix.Mknod(n.Path("srv/loop"), unix.S_IFBLK|0o600, loop))
}

var wayOfType = map[volume.Type]struct {
	name string
	kind os.FileMode
}{
	volume.DirectoryOrCreate: {"newdir/deep", os.ModeDir},
	volume.Directory:         {"dir", os.ModeDir},
	volume.FileOrCreate:      {"newfile", 0},
	volume.File:              {"file", 0},
	volume.Socket:            {"sock", os.ModeSocket},
	volume.CharDevice:        {"null", os.ModeDevice | os.ModeCharDevice},
	volume.BlockDevice:       {"loop", os.ModeDevice},
}

// Each type is published through a PersistentVolume written by hand (without CreateVolume), through
// a class, and as an inline volume. Each call is made twice.
func TestEveryTypeByPVClassAndInlineVolume(t *testing.T) {
	n := newNode(t, everything)
	n.putAll()
	for i, wanted := range volume.Types() {
		way := wayOfType[wanted]
		attributes := []string{"path", n.Path("srv", way.name), "type", string(wanted)}
		for title, v := range map[string]volumeOf{
			"PV":     persistent(podA, "any/handle: ü "+string(wanted), attributes...),
			"class":  n.ofClass(podA, fmt.Sprintf("pvc-%d", i), attributes...),
			"inline": inline(podA, "v", attributes...),
		} {
			t.Run(string(wanted)+" "+title, func(t *testing.T) {
				for range 2 {
					n.Must(n.publish(v))
				}
				info, err := os.Lstat(n.target(v))
				if err != nil || info.Mode().Type() != way.kind {
					t.Errorf("the target has mode %v, %v, want the type %v", info.Mode(), err, way.kind)
				}
				n.wantStats(v)
				for range 2 {
					n.Must(n.unpublish(v))
				}
				if _, err := os.Lstat(n.Path("srv", way.name)); err != nil {
					t.Errorf("the host's file no longer exists: %v", err)
				}
			})
		}
	}
	n.wantContent(n.Path("srv/file"), content)
	n.wantNothingLeft()
}

// ofClass creates a volume of a class as external-provisioner does, and returns the volume with the
// attributes of its PersistentVolume.
func (n *node) ofClass(p pod, name string, attributes ...string) volumeOf {
	n.t.Helper()
	resp, err := n.create(p.namespace, name, attributes...)
	n.Must(err)
	v := persistent(p, resp.GetVolume().GetVolumeId())
	v.attributes = resp.GetVolume().GetVolumeContext()
	if v.attributes == nil {
		v.attributes = map[string]string{}
	}
	return v
}

func (n *node) create(
	namespace, name string, attributes ...string,
) (*csi.CreateVolumeResponse, error) {
	params := pairs(attributes)
	params[volume.ParamPVCNamespace], params[volume.ParamPVCName] = namespace, "claim"
	return n.Controller.CreateVolume(n.t.Context(), &csi.CreateVolumeRequest{
		Name:               name,
		Parameters:         params,
		VolumeCapabilities: []*csi.VolumeCapability{volumeOf{}.capability()},
	})
}

func (n *node) wantStats(v volumeOf) {
	n.t.Helper()
	resp, err := n.Node.NodeGetVolumeStats(n.t.Context(),
		&csi.NodeGetVolumeStatsRequest{VolumeId: v.handle, VolumePath: n.target(v)})
	if err != nil || len(resp.GetUsage()) != 2 ||
		resp.GetUsage()[0].GetUsed() > resp.GetUsage()[0].GetTotal() {
		n.t.Errorf("stats of %s: %v, %v", v.handle, resp, err)
	}
}

func TestPodsOnOnePathSeeTheSameFilesAtOnce(t *testing.T) {
	n := newNode(t, everything)
	attributes := []string{"path", n.Path("srv/shared"), "type", "DirectoryOrCreate"}
	a, b := inline(podA, "v", attributes...), persistent(podB, "pv-b", attributes...)
	n.Must(n.publish(a))
	n.Must(n.publish(b))
	at, other := n.target(a), n.target(b)
	n.write(filepath.Join(at, "file"), "one")
	n.wantContent(filepath.Join(other, "file"), "one")
	// Editors and kubelet's AtomicWriter replace a file by a rename.
	n.write(filepath.Join(at, "file.tmp"), "two")
	n.Must(os.Rename(filepath.Join(at, "file.tmp"), filepath.Join(at, "file")))
	n.wantContent(filepath.Join(other, "file"), "two")
	n.write(n.Path("srv/shared/file"), "three")
	n.wantContent(filepath.Join(at, "file"), "three")
	n.Must(n.unpublish(a))
	n.wantContent(filepath.Join(other, "file"), "three")
	n.Must(n.unpublish(b))
	n.wantContent(n.Path("srv/shared/file"), "three")
}

func TestReadOnlyRootIsReadOnlyWithWhatIsMountedBelow(t *testing.T) {
	n := newNode(t, "[{path: '{srv}', readOnly: true}]")
	n.Must(unix.Mount("tmpfs", n.mkdir("srv/disk"), "tmpfs", 0, "size=1m"))
	v := persistent(podA, "pv", "path", n.Path("srv"), "type", "Directory").asReadOnly()
	n.Must(n.publish(v))
	for _, dir := range []string{"", "disk"} {
		if err := os.WriteFile(
			filepath.Join(n.target(v), dir, "new"),
			nil,
			0o600,
		); !errors.Is(
			err, syscall.EROFS,
		) {
			t.Errorf("writing in %q: %v, want EROFS", dir, err)
		}
	}
	n.Must(n.unpublish(v))
	n.write(n.Path("srv/disk/host"), content) // the host's own mount still exists and is writable
	missing := persistent(podA, "pv", "path", n.Path("srv/new"), "type", "DirectoryOrCreate", "mode",
		"0777").asReadOnly()
	n.wantCode(n.publish(missing), codes.FailedPrecondition, "read-only")
}

// runc 1.2 and newer makes a mount writable in the container if kubelet does not ask for a
// read-only one. kubelet asks the runtime for it exactly if it asks the driver for it.
func TestReadOnlyRootIsRefusedToAPodThatDoesNotWantItReadOnly(t *testing.T) {
	n := newNode(t, "[{path: '{srv}', readOnly: true, inline: true}]")
	attributes := []string{"path", n.mkdir("srv"), "type", "Directory"}
	claim, reader := persistent(podA, "pv", attributes...), persistent(podA, "pv", attributes...)
	reader.mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	for _, tc := range []struct {
		title string
		v     volumeOf
		want  string
	}{
		{"a claim", claim, "set persistentVolumeClaim.readOnly: true"},
		{"a reader's claim", reader, "set persistentVolumeClaim.readOnly: true"},
		{"inline", inline(podA, "v", attributes...), "set csi.readOnly: true"},
	} {
		t.Run(tc.title, func(*testing.T) {
			n.wantCode(n.publish(tc.v), codes.PermissionDenied, n.Path("srv"), tc.want)
			n.Must(n.unpublish(tc.v)) // kubelet unpublishes after a failure
			n.Must(n.publish(tc.v.asReadOnly()))
			n.wantCode(n.publish(tc.v), codes.PermissionDenied, tc.want)
			n.Must(n.unpublish(tc.v))
		})
	}
	n.wantNothingLeft()
}

// After its own restart kubelet publishes every volume again. The pod keeps the file that it has,
// as with hostPath.
func TestPublishedPathStaysPublishedWhenSomethingElseTakesItsPlace(t *testing.T) {
	n := newNode(t, everything)
	for title, v := range map[string]volumeOf{
		"PV":     persistent(podA, "pv", "path", n.Path("srv/file"), "type", "FileOrCreate"),
		"inline": inline(podA, "v", "path", n.Path("srv/file"), "type", "File"),
	} {
		t.Run(title, func(t *testing.T) {
			n.write(n.Path("srv/file"), "old")
			n.Must(n.publish(v))
			n.write(n.Path("srv/file.new"), "new")
			n.Must(os.Rename(n.Path("srv/file.new"), n.Path("srv/file")))
			n.Must(n.publish(v))
			n.Start()
			n.Must(n.publish(v))
			n.wantContent(n.target(v), "old")
			other := v
			other.readOnly = true
			n.wantCode(n.publish(other), codes.AlreadyExists)
			if m := n.Mounts(); len(m) != 1 {
				t.Errorf("the mounts are %q", m)
			}
			n.Must(n.unpublish(v))
			n.Must(n.publish(v))
			n.wantContent(n.target(v), "new")
			n.Must(unix.Unmount(n.target(v), 0))
			n.Must(n.publish(v)) // the driver does not take the unmounted target for a published one
			n.wantContent(n.target(v), "new")
			n.Must(n.unpublish(v))
		})
	}
	n.wantNothingLeft()
}

// A read-only mount of a device node does not prevent writing to the device.
func TestDeviceIsNotOfferedReadOnly(t *testing.T) {
	n := newNode(t, everything)
	n.putAll()
	for name, wanted := range map[string]volume.Type{
		"null": volume.CharDevice, "loop": volume.BlockDevice,
	} {
		v := persistent(podA, "pv", "path", n.Path("srv", name), "type", string(wanted))
		v.readOnly = true
		n.wantCode(n.publish(v), codes.InvalidArgument, "read-only")
		v.readOnly, v.mode = false, csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
		n.wantCode(n.publish(v), codes.InvalidArgument, "read-only")
	}
	if m := n.Mounts(); len(m) > 0 {
		t.Errorf("the refused call has mounted %q", m)
	}
}

func TestRefusalsNameWhatIsMissing(t *testing.T) {
	n := newNode(t, "[{path: '{srv}', namespaces: [team-a]}]")
	n.putAll()
	n.Must(os.Symlink("/etc", n.Path("srv/link")))
	srv := n.Path("srv")
	for _, tc := range []struct {
		title string
		v     volumeOf
		code  codes.Code
		words []string
	}{
		{"no rule", persistent(podA, "h", "path", "/opt/x", "type", "Directory"), codes.PermissionDenied, []string{"/opt/x", "Directory", "there is none for the path"}},
		{"another namespace", persistent(podB, "h", "path", srv, "type", "Directory"), codes.PermissionDenied, []string{srv, "team-b", "namespaces [team-a]"}},
		{"inline", inline(podA, "v", "path", srv, "type", "Directory"), codes.PermissionDenied, []string{srv, "inline: true"}},
		{"a link", persistent(podA, "h", "path", srv+"/link/passwd", "type", "File"), codes.PermissionDenied, []string{"symbolic link"}},
		{"a device", persistent(podA, "h", "path", srv+"/null", "type", "CharDevice"), codes.PermissionDenied, []string{"names no device types"}},
		{"absent", persistent(podA, "h", "path", srv+"/none", "type", "File"), codes.FailedPrecondition, []string{srv + "/none", "does not exist", "File"}},
		{"another type", persistent(podA, "h", "path", srv+"/sock", "type", "Directory"), codes.FailedPrecondition, []string{"is a socket", "wants a directory"}},
		{"no type", persistent(podA, "h", "path", srv), codes.InvalidArgument, []string{`"type"`}},
		{"dots", persistent(podA, "h", "path", srv+"/../etc", "type", "Directory"), codes.InvalidArgument, []string{`".."`}},
		{"a pool", persistent(podA, "h", "path", srv, "type", "Directory", "pool", "p"), codes.InvalidArgument, []string{"pool"}},
		{"an unknown key", persistent(podA, "h", "path", srv, "type", "Directory", "paht", "x"), codes.InvalidArgument, []string{"paht", "known"}},
		{"a mode of what exists", persistent(podA, "h", "path", srv, "type", "Directory", "mode", "0777"), codes.InvalidArgument, []string{"mode"}},
		{"setuid", persistent(podA, "h", "path", srv+"/new", "type", "FileOrCreate", "mode", "4755"), codes.InvalidArgument, []string{"mode"}},
		{"a pool's ID", persistent(podA, "0123456789ab-pvc-1", "path", srv, "type", "Directory"), codes.InvalidArgument, []string{"another one"}},
		{"no path", persistent(podA, "some-handle"), codes.NotFound, []string{"not a volume ID of this driver"}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			n.wantCode(n.publish(tc.v), tc.code, tc.words...)
			if m := n.Mounts(); len(m) > 0 {
				t.Errorf("the refused call has mounted %q", m)
			}
			n.Must(n.unpublish(tc.v)) // kubelet unpublishes after a failure
		})
	}
}

// Without podInfoOnMount the author of a pod can write the attributes that kubelet would write: an
// allowed namespace, a UID, and that the volume is not inline. The author cannot know the UID in
// the target path.
func TestForgedPodInformationIsRefused(t *testing.T) {
	n := newNode(t, "[{path: '{srv}', namespaces: [team-a]}]")
	forger := inline(podB, "v", "path", n.Path("srv"), "type", "Directory")
	for _, forged := range []map[string]string{
		{volume.AttrPodNamespace: "team-a"},
		{volume.AttrPodNamespace: "team-a", volume.AttrEphemeral: "false"},
		{volume.AttrPodNamespace: "team-a", volume.AttrEphemeral: "false", volume.AttrPodUID: podA.uid},
		{volume.AttrPodNamespace: "team-a", volume.AttrEphemeral: "true", volume.AttrPodUID: "../" + podA.uid},
		{volume.AttrPodNamespace: "team-a", volume.AttrPodUID: "."},
		// Even the right UID does not help the author.
		{volume.AttrPodNamespace: "team-a", volume.AttrPodUID: podB.uid},
	} {
		maps.Copy(forged, forger.attributes)
		n.wantCode(n.publishWith(forger, forged), codes.PermissionDenied, "podInfoOnMount")
	}
	// With podInfoOnMount kubelet's attributes replace the author's.
	forger.attributes[volume.AttrPodNamespace] = "team-a"
	forger.attributes[volume.AttrEphemeral] = "false"
	n.wantCode(n.publish(forger), codes.PermissionDenied, `"team-b"`, "inline")
}

func TestSingleWriterOfAHostPath(t *testing.T) {
	n := newNode(t, everything)
	first := persistent(podA, "pv", "path", n.Path("srv"), "type", "Directory")
	first.mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	second := first
	second.pod = podB
	for range 2 {
		n.Must(n.publish(first))
	}
	n.wantCode(n.publish(second), codes.FailedPrecondition, "single writer")
	n.Start() // the mount does not show its volume; kubelet's file beside the target does
	n.wantCode(n.publish(second), codes.FailedPrecondition, "single writer")
	n.Must(n.publish(first))
	n.Must(n.unpublish(second))
	n.Must(n.unpublish(first))
	n.Must(n.publish(second))
}

func TestClassWithAPath(t *testing.T) {
	n := newNode(t, "[{path: '{srv}', namespaces: [team-a]}]")
	attributes := []string{"path", n.Path("srv/x"), "type", "DirectoryOrCreate", "mode", "0750"}
	_, err := n.create("team-b", "pvc-1", attributes...)
	n.wantCode(err, codes.PermissionDenied, n.Path("srv/x"), "namespaces [team-a]")
	v := n.ofClass(podA, "pvc-1", attributes...)
	again := n.ofClass(podA, "pvc-1", attributes...)
	if v.handle != again.handle || !volume.IsReferenceID(v.handle) {
		t.Errorf("IDs %q and %q", v.handle, again.handle)
	}
	if _, ok := v.attributes[volume.ParamPVCNamespace]; ok || len(v.attributes) != 3 {
		t.Errorf("volume context %q", v.attributes)
	}
	if got := n.volumes(); len(got) > 0 {
		t.Errorf("the pool has %q", got)
	}
	n.checkReference(v)
	if other := n.ofClass(
		podA,
		"pvc-1",
		"path",
		n.Path("srv/y"),
		"type",
		"DirectoryOrCreate",
	); other.handle == v.handle {
		t.Errorf("the same name with another path has the same ID %q", v.handle)
	}
	mixed := v
	mixed.attributes = pairs([]string{"path", n.Path("srv"), "type", "Directory"})
	n.wantCode(n.publish(mixed), codes.InvalidArgument, "was made for another path")
	n.Must(n.publish(v))
	n.Must(n.unpublish(v))
	for range 2 {
		_, err := n.Controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.handle})
		n.Must(err)
	}
	if info, err := os.Stat(n.Path("srv/x")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("after DeleteVolume the directory has %v, %v", info, err)
	}
}

// checkReference makes the calls that need only the volume's ID.
func (n *node) checkReference(v volumeOf) {
	n.t.Helper()
	ctx := context.Background()
	got, err := n.Controller.ControllerGetVolume(ctx,
		&csi.ControllerGetVolumeRequest{VolumeId: v.handle})
	if err != nil || got.GetVolume().GetVolumeId() != v.handle {
		n.t.Errorf("ControllerGetVolume: %v, %v", got, err)
	}
	valid, err := n.Controller.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId:           v.handle,
		VolumeContext:      v.attributes,
		VolumeCapabilities: []*csi.VolumeCapability{v.capability()},
		Parameters:         v.attributes,
	})
	if err != nil || valid.GetConfirmed() == nil {
		n.t.Errorf("ValidateVolumeCapabilities: %v, %v", valid, err)
	}
	other, err := n.Controller.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId:           v.handle,
		VolumeContext:      v.attributes,
		VolumeCapabilities: []*csi.VolumeCapability{v.capability()},
		Parameters: map[string]string{
			"path": "/elsewhere",
			"type": v.attributes["type"],
			"mode": v.attributes["mode"],
		},
	})
	if err != nil || other.GetConfirmed() != nil ||
		!strings.Contains(other.GetMessage(), "elsewhere") {
		n.t.Errorf("ValidateVolumeCapabilities with another path: %v, %v", other, err)
	}
	// The same without a volume context: the ID has a digest of the path and type.
	foreign, err := n.Controller.ValidateVolumeCapabilities(
		ctx,
		&csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: v.handle, VolumeCapabilities: []*csi.VolumeCapability{v.capability()},
			Parameters: map[string]string{"path": "/elsewhere", "type": "File"},
		},
	)
	if err != nil || foreign.GetConfirmed() != nil ||
		!strings.Contains(foreign.GetMessage(), "elsewhere") {
		n.t.Errorf("ValidateVolumeCapabilities with another path and no context: %v, %v", foreign, err)
	}
	room, err := n.Controller.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: v.attributes})
	if err != nil || room.GetAvailableCapacity() < 1<<60 {
		n.t.Errorf("GetCapacity: %v, %v", room, err)
	}
}
