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

// putAll makes something of each type that must exist.
func (w *world) putAll() {
	w.t.Helper()
	w.mkdir("srv/dir")
	w.write(w.path("srv/file"), content)
	listener, err := (&net.ListenConfig{}).Listen(w.t.Context(), "unix", w.path("srv/sock"))
	w.must(err)
	w.t.Cleanup(func() { listener.Close() })
	w.must(
		unix.Mknod(w.path("srv/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
	) //nolint:gosec // null: a small number
	w.must(
		unix.Mknod(w.path("srv/loop"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))),
	) //nolint:gosec // a loop device: a small number
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

// Each type, through a PV that an administrator wrote (no CreateVolume), a class, and an inline
// volume; each call twice.
func TestEveryTypeByPVClassAndInlineVolume(t *testing.T) {
	w := newWorld(t, everything)
	w.putAll()
	for n, wanted := range volume.Types() {
		way := wayOfType[wanted]
		attributes := []string{"path", w.path("srv", way.name), "type", string(wanted)}
		for title, v := range map[string]volumeOf{
			"PV":     persistent(podA, "any/handle: ü "+string(wanted), attributes...),
			"class":  w.ofClass(podA, fmt.Sprintf("pvc-%d", n), attributes...),
			"inline": inline(podA, "v", attributes...),
		} {
			t.Run(string(wanted)+" "+title, func(t *testing.T) {
				for range 2 {
					w.must(w.publish(v))
				}
				info, err := os.Lstat(w.target(v))
				if err != nil || info.Mode().Type() != way.kind {
					t.Errorf("the target has mode %v, %v, want type %v", info.Mode(), err, way.kind)
				}
				w.wantStats(v)
				for range 2 {
					w.must(w.unpublish(v))
				}
				if _, err := os.Lstat(w.path("srv", way.name)); err != nil {
					t.Errorf("what is referenced is gone: %v", err)
				}
			})
		}
	}
	w.wantContent(w.path("srv/file"), content)
	w.wantNothingLeft()
}

// ofClass asks for a volume of a class as external-provisioner does, and returns it with the
// attributes of its PV.
func (w *world) ofClass(p pod, name string, attributes ...string) volumeOf {
	w.t.Helper()
	resp, err := w.create(p.namespace, name, attributes...)
	w.must(err)
	v := persistent(p, resp.GetVolume().GetVolumeId())
	v.attributes = resp.GetVolume().GetVolumeContext()
	if v.attributes == nil {
		v.attributes = map[string]string{}
	}
	return v
}

func (w *world) create(
	namespace, name string, attributes ...string,
) (*csi.CreateVolumeResponse, error) {
	params := pairs(attributes)
	params[volume.ParamPVCNamespace], params[volume.ParamPVCName] = namespace, "claim"
	return w.Controller.CreateVolume(w.t.Context(), &csi.CreateVolumeRequest{
		Name:               name,
		Parameters:         params,
		VolumeCapabilities: []*csi.VolumeCapability{volumeOf{}.capability()},
	})
}

func (w *world) wantStats(v volumeOf) {
	w.t.Helper()
	resp, err := w.Node.NodeGetVolumeStats(w.t.Context(),
		&csi.NodeGetVolumeStatsRequest{VolumeId: v.handle, VolumePath: w.target(v)})
	if err != nil || len(resp.GetUsage()) != 2 ||
		resp.GetUsage()[0].GetUsed() > resp.GetUsage()[0].GetTotal() {
		w.t.Errorf("stats of %s: %v, %v", v.handle, resp, err)
	}
}

func TestPodsOnOnePathSeeTheSameFilesAtOnce(t *testing.T) {
	w := newWorld(t, everything)
	attributes := []string{"path", w.path("srv/shared"), "type", "DirectoryOrCreate"}
	a, b := inline(podA, "v", attributes...), persistent(podB, "pv-b", attributes...)
	w.must(w.publish(a))
	w.must(w.publish(b))
	at, other := w.target(a), w.target(b)
	w.write(filepath.Join(at, "file"), "one")
	w.wantContent(filepath.Join(other, "file"), "one")
	// Replaced as an editor and kubelet's own AtomicWriter do it.
	w.write(filepath.Join(at, "file.tmp"), "two")
	w.must(os.Rename(filepath.Join(at, "file.tmp"), filepath.Join(at, "file")))
	w.wantContent(filepath.Join(other, "file"), "two")
	w.write(w.path("srv/shared/file"), "three")
	w.wantContent(filepath.Join(at, "file"), "three")
	w.must(w.unpublish(a))
	w.wantContent(filepath.Join(other, "file"), "three")
	w.must(w.unpublish(b))
	w.wantContent(w.path("srv/shared/file"), "three")
}

func TestReadOnlyRootIsReadOnlyWithWhatIsMountedBelow(t *testing.T) {
	w := newWorld(t, "[{path: '{srv}', readOnly: true}]")
	w.must(unix.Mount("tmpfs", w.mkdir("srv/disk"), "tmpfs", 0, "size=1m"))
	v := persistent(podA, "pv", "path", w.path("srv"), "type", "Directory")
	w.must(w.publish(v))
	for _, dir := range []string{"", "disk"} {
		if err := os.WriteFile(
			filepath.Join(w.target(v), dir, "new"),
			nil,
			0o600,
		); !errors.Is(
			err, syscall.EROFS,
		) {
			t.Errorf("writing in %q: %v, want EROFS", dir, err)
		}
	}
	w.must(w.unpublish(v))
	w.write(w.path("srv/disk/host"), content) // the host's own mount is still there, and writable
	missing := persistent(podA, "pv", "path", w.path("srv/new"), "type", "DirectoryOrCreate", "mode",
		"0777")
	w.wantCode(w.publish(missing), codes.FailedPrecondition, "read-only")
}

// kubelet asks for every volume again after its own restart; the pod goes on with the file that it
// has, as with hostPath.
func TestPublishedPathStaysPublishedWhenSomethingElseTakesItsPlace(t *testing.T) {
	w := newWorld(t, everything)
	for title, v := range map[string]volumeOf{
		"PV":     persistent(podA, "pv", "path", w.path("srv/file"), "type", "FileOrCreate"),
		"inline": inline(podA, "v", "path", w.path("srv/file"), "type", "File"),
	} {
		t.Run(title, func(t *testing.T) {
			w.write(w.path("srv/file"), "old")
			w.must(w.publish(v))
			w.write(w.path("srv/file.new"), "new")
			w.must(os.Rename(w.path("srv/file.new"), w.path("srv/file")))
			w.must(w.publish(v))
			w.restart()
			w.must(w.publish(v))
			w.wantContent(w.target(v), "old")
			other := v
			other.readOnly = true
			w.wantCode(w.publish(other), codes.AlreadyExists)
			if m := w.mounts(); len(m) != 1 {
				t.Errorf("mounted are %q", m)
			}
			w.must(w.unpublish(v))
			w.must(w.publish(v))
			w.wantContent(w.target(v), "new")
			w.must(unix.Unmount(w.target(v), 0))
			w.must(w.publish(v)) // nothing is taken for published that is not
			w.wantContent(w.target(v), "new")
			w.must(w.unpublish(v))
		})
	}
	w.wantNothingLeft()
}

// A mount that is read-only keeps nobody from writing to a device.
func TestDeviceIsNotOfferedReadOnly(t *testing.T) {
	w := newWorld(t, everything)
	w.putAll()
	for name, wanted := range map[string]volume.Type{"null": volume.CharDevice, "loop": volume.BlockDevice} {
		v := persistent(podA, "pv", "path", w.path("srv", name), "type", string(wanted))
		v.readOnly = true
		w.wantCode(w.publish(v), codes.InvalidArgument, "read-only")
		v.readOnly, v.mode = false, csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
		w.wantCode(w.publish(v), codes.InvalidArgument, "read-only")
	}
	if m := w.mounts(); len(m) > 0 {
		t.Errorf("mounted all the same: %q", m)
	}
}

func TestRefusalsNameWhatIsMissing(t *testing.T) {
	w := newWorld(t, "[{path: '{srv}', namespaces: [team-a]}]")
	w.putAll()
	w.must(os.Symlink("/etc", w.path("srv/link")))
	srv := w.path("srv")
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
		{"no path", persistent(podA, "some-handle"), codes.InvalidArgument, []string{"not a volume ID of this driver"}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			w.wantCode(w.publish(tc.v), tc.code, tc.words...)
			if m := w.mounts(); len(m) > 0 {
				t.Errorf("mounted all the same: %q", m)
			}
			w.must(w.unpublish(tc.v)) // kubelet clears up after a failure
		})
	}
}

// Without podInfoOnMount the pod's author writes what kubelet would: a namespace that is allowed, a
// UID, and that the volume is not inline. The UID cannot be the one in the target path.
func TestForgedPodInformationIsRefused(t *testing.T) {
	w := newWorld(t, "[{path: '{srv}', namespaces: [team-a]}]")
	forger := inline(podB, "v", "path", w.path("srv"), "type", "Directory")
	for _, forged := range []map[string]string{
		{volume.AttrPodNamespace: "team-a"},
		{volume.AttrPodNamespace: "team-a", volume.AttrEphemeral: "false"},
		{volume.AttrPodNamespace: "team-a", volume.AttrEphemeral: "false", volume.AttrPodUID: podA.uid},
		{volume.AttrPodNamespace: "team-a", volume.AttrEphemeral: "true", volume.AttrPodUID: "../" + podA.uid},
		{volume.AttrPodNamespace: "team-a", volume.AttrPodUID: "."},
		{volume.AttrPodNamespace: "team-a", volume.AttrPodUID: podB.uid}, // even if it knew it
	} {
		maps.Copy(forged, forger.attributes)
		w.wantCode(w.publishWith(forger, forged), codes.PermissionDenied, "podInfoOnMount")
	}
	// With it, kubelet's words stand over the author's.
	forger.attributes[volume.AttrPodNamespace] = "team-a"
	forger.attributes[volume.AttrEphemeral] = "false"
	w.wantCode(w.publish(forger), codes.PermissionDenied, `"team-b"`, "inline")
}

func TestSingleWriterOfAHostPath(t *testing.T) {
	w := newWorld(t, everything)
	first := persistent(podA, "pv", "path", w.path("srv"), "type", "Directory")
	first.mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	second := first
	second.pod = podB
	for range 2 {
		w.must(w.publish(first))
	}
	w.wantCode(w.publish(second), codes.FailedPrecondition, "single writer")
	w.restart() // the mount does not say whose it is, and kubelet's own file does
	w.wantCode(w.publish(second), codes.FailedPrecondition, "single writer")
	w.must(w.publish(first))
	w.must(w.unpublish(second))
	w.must(w.unpublish(first))
	w.must(w.publish(second))
}

func TestClassWithAPath(t *testing.T) {
	w := newWorld(t, "[{path: '{srv}', namespaces: [team-a]}]")
	attributes := []string{"path", w.path("srv/x"), "type", "DirectoryOrCreate", "mode", "0750"}
	_, err := w.create("team-b", "pvc-1", attributes...)
	w.wantCode(err, codes.PermissionDenied, w.path("srv/x"), "namespaces [team-a]")
	v := w.ofClass(podA, "pvc-1", attributes...)
	again := w.ofClass(podA, "pvc-1", attributes...)
	if v.handle != again.handle || !volume.IsReferenceID(v.handle) {
		t.Errorf("IDs %q and %q", v.handle, again.handle)
	}
	if _, ok := v.attributes[volume.ParamPVCNamespace]; ok || len(v.attributes) != 3 {
		t.Errorf("volume context %q", v.attributes)
	}
	if got := w.volumes(); len(got) > 0 {
		t.Errorf("the pool has %q", got)
	}
	w.checkReference(v)
	if other := w.ofClass(
		podA,
		"pvc-1",
		"path",
		w.path("srv/y"),
		"type",
		"DirectoryOrCreate",
	); other.handle == v.handle {
		t.Errorf("the same name with another path has the same ID %q", v.handle)
	}
	mixed := v
	mixed.attributes = pairs([]string{"path", w.path("srv"), "type", "Directory"})
	w.wantCode(w.publish(mixed), codes.InvalidArgument, "was made for another path")
	w.must(w.publish(v))
	w.must(w.unpublish(v))
	for range 2 {
		_, err := w.Controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.handle})
		w.must(err)
	}
	if info, err := os.Stat(w.path("srv/x")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("after DeleteVolume the directory has %v, %v", info, err)
	}
}

// checkReference asks the questions that a volume's ID alone answers.
func (w *world) checkReference(v volumeOf) {
	w.t.Helper()
	ctx := context.Background()
	got, err := w.Controller.ControllerGetVolume(ctx,
		&csi.ControllerGetVolumeRequest{VolumeId: v.handle})
	if err != nil || got.GetVolume().GetVolumeId() != v.handle {
		w.t.Errorf("ControllerGetVolume: %v, %v", got, err)
	}
	valid, err := w.Controller.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId:           v.handle,
		VolumeContext:      v.attributes,
		VolumeCapabilities: []*csi.VolumeCapability{v.capability()},
		Parameters:         v.attributes,
	})
	if err != nil || valid.GetConfirmed() == nil {
		w.t.Errorf("ValidateVolumeCapabilities: %v, %v", valid, err)
	}
	other, err := w.Controller.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{
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
		w.t.Errorf("ValidateVolumeCapabilities with another path: %v, %v", other, err)
	}
	// Also when the caller has no volume context: the ID says what it was made of.
	foreign, err := w.Controller.ValidateVolumeCapabilities(
		ctx,
		&csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: v.handle, VolumeCapabilities: []*csi.VolumeCapability{v.capability()},
			Parameters: map[string]string{"path": "/elsewhere", "type": "File"},
		},
	)
	if err != nil || foreign.GetConfirmed() != nil ||
		!strings.Contains(foreign.GetMessage(), "elsewhere") {
		w.t.Errorf("ValidateVolumeCapabilities with another path and no context: %v, %v", foreign, err)
	}
	room, err := w.Controller.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: v.attributes})
	if err != nil || room.GetAvailableCapacity() < 1<<60 {
		w.t.Errorf("GetCapacity: %v, %v", room, err)
	}
}
