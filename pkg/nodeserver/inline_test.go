package nodeserver

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	deadUID = "6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7a2f1"
	liveUID = "0d4c1f9a-7d0b-4b52-8a39-3b8a8c3c9a52"
)

// inlineHandle is what kubelet might call an inline volume of the pod.
func inlineHandle(uid string) string { return "csi-" + strings.Repeat(uid[:1], 64) }

func inlineTarget(n *node, uid string) string {
	return n.target("pods/" + uid + "/volumes/kubernetes.io~csi/v/mount")
}

// publishInline is what kubelet does; the attributes are the user's, and kubelet's stand over them.
func (n *node) publishInline(t *testing.T, uid string, attributes map[string]string) error {
	t.Helper()
	return n.publishInlineAs(t, inlineHandle(uid), uid, attributes)
}

func (n *node) publishInlineAs(t *testing.T, handle, uid string, attributes map[string]string) error {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(inlineTarget(n, uid)), 0o750))
	all := maps.Clone(attributes)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, map[string]string{
		volume.AttrPodUID: uid, volume.AttrPodNamespace: "ns", volume.AttrPodName: "pod", volume.AttrEphemeral: "true",
	})
	return n.publish(t, &csi.NodePublishVolumeRequest{
		VolumeId: handle, TargetPath: inlineTarget(n, uid), VolumeCapability: capabilityOf(multiWriter), VolumeContext: all,
	})
}

func (n *node) unpublishHandle(t *testing.T, handle, target string) error {
	t.Helper()
	_, err := n.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: handle, TargetPath: target})
	return err
}

func (n *node) inlineVolumes() int { return len(n.pool.Inline()) }

func TestSweepKeepsWhatALivePodMayWant(t *testing.T) {
	for _, tc := range []struct {
		title string
		// pods is what becomes of kubelet's directory of pods.
		pods func(t *testing.T, pods string)
		want int // volumes that are left
	}{
		{"both pods live", func(*testing.T, string) {}, 2},
		{"one is gone", func(t *testing.T, pods string) { t.Helper(); must(t, os.RemoveAll(filepath.Join(pods, deadUID))) }, 1},
		{"the directory is missing", func(t *testing.T, pods string) { t.Helper(); must(t, os.RemoveAll(pods)) }, 2},
		{"it is empty", func(t *testing.T, pods string) {
			t.Helper()
			must(t, os.RemoveAll(pods))
			must(t, os.Mkdir(pods, 0o750))
		}, 2},
		{"it cannot be read", func(t *testing.T, pods string) {
			t.Helper()
			must(t, os.RemoveAll(pods))
			must(t, os.WriteFile(pods, nil, 0o600))
		}, 2},
	} {
		t.Run(tc.title, func(t *testing.T) {
			n := newNode(t)
			for _, uid := range []string{deadUID, liveUID} {
				must(t, n.publishInline(t, uid, nil))
				must(t, unix.Unmount(inlineTarget(n, uid), 0)) // a reboot
			}
			n.create(t, "managed", volume.DirectoryOrCreate)
			n.restart(t)
			tc.pods(t, n.target("pods"))
			n.SweepInline(t.Context())
			if got := n.inlineVolumes(); got != tc.want {
				t.Errorf("%d inline volumes are left, want %d", got, tc.want)
			}
			if got := len(n.pool.List("", 10)); got != tc.want+1 {
				t.Errorf("%d volumes are left, want %d", got, tc.want+1)
			}
		})
	}
}

func TestUnpublishDeletesAnInlineVolumeFromEveryPoolAndNothingElse(t *testing.T) {
	n := newNode(t)
	must(t, n.publishInline(t, deadUID, nil))
	managed := n.create(t, "managed", volume.DirectoryOrCreate)
	for _, handle := range []string{"managed", managed.Dir(), inlineHandle(liveUID)} {
		must(t, n.unpublishHandle(t, handle, n.target("elsewhere")))
	}
	if got := len(n.pool.List("", 10)); got != 2 {
		t.Errorf("%d volumes are left, want 2", got)
	}
	// The same handle at another target is not the pod's end.
	wantCode(t, n.unpublishHandle(t, inlineHandle(deadUID), n.target("elsewhere")), codes.FailedPrecondition)
	must(t, n.unpublishHandle(t, inlineHandle(deadUID), inlineTarget(n, deadUID)))
	if got := n.inlineVolumes(); got != 0 {
		t.Errorf("%d inline volumes are left", got)
	}
	must(t, n.checkUnused(t, managed))
}

func TestInlineVolumeIsKnownAfterARestart(t *testing.T) {
	n := newNode(t)
	must(t, n.publishInline(t, deadUID, nil))
	n.restart(t)
	must(t, n.publishInline(t, deadUID, nil))
	if got := mountsBelow(t, n.KubeletDir); len(got) != 1 {
		t.Errorf("mounted are %q", got)
	}
	for handle, want := range map[string]codes.Code{
		inlineHandle(deadUID): codes.OK, inlineHandle(liveUID): codes.NotFound, "other": codes.NotFound,
	} {
		resp, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: handle, VolumePath: inlineTarget(n, deadUID)})
		wantCode(t, err, want)
		if err == nil {
			wantUsage(t, resp.GetUsage())
		}
	}
}

// Only kubelet's handles have its form; the specification allows any string.
func TestInlineVolumeOfAnyHandleIsServedToItsEnd(t *testing.T) {
	for _, handle := range []string{"my vol", "../../x", "plain", "h-" + strings.Repeat("a", 40), strings.Repeat("ä", 64)} {
		t.Run(handle, func(t *testing.T) {
			n := newNode(t)
			must(t, n.publishInlineAs(t, handle, deadUID, map[string]string{"size": "1Mi"}))
			for asked, want := range map[string]codes.Code{handle: codes.OK, handle[1:]: codes.NotFound} {
				resp, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: asked, VolumePath: inlineTarget(n, deadUID)})
				wantCode(t, err, want)
				if err == nil {
					wantUsage(t, resp.GetUsage())
				}
			}
			wantCode(t, n.unpublishHandle(t, handle[1:], inlineTarget(n, deadUID)), codes.FailedPrecondition)
			must(t, n.unpublishHandle(t, handle, inlineTarget(n, deadUID)))
			if got := n.inlineVolumes(); got != 0 {
				t.Errorf("%d inline volumes are left", got)
			}
		})
	}
}

// A volume's directory in its pool is no ID: who knows a claim's name must not end its mount.
func TestNameOfAManagedVolumeIsNoHandleOfIt(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "managed", volume.DirectoryOrCreate)
	must(t, n.publish(t, n.publishRequest(id, "pod")))
	wantCode(t, n.unpublishHandle(t, "managed", n.target("pod")), codes.FailedPrecondition)
	_, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "managed", VolumePath: n.target("pod")})
	wantCode(t, err, codes.NotFound)
	must(t, n.unpublishHandle(t, id.String(), n.target("pod")))
}

func TestManagedVolumeIsNotGivenToAPodAsItsOwn(t *testing.T) {
	n := newNode(t)
	n.create(t, inlineHandle(deadUID), volume.DirectoryOrCreate)
	wantCode(t, n.publishInline(t, deadUID, map[string]string{"size": "1Mi", "mode": "0755"}), codes.AlreadyExists)
	if got := mountsBelow(t, n.KubeletDir); len(got) != 0 {
		t.Errorf("mounted are %q", got)
	}
}
