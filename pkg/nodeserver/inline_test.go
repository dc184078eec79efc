package nodeserver

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const (
	deadUID = "6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7a2f1"
	liveUID = "0d4c1f9a-7d0b-4b52-8a39-3b8a8c3c9a52"
)

// inlineHandle returns a handle like those that kubelet makes for the inline volumes of a pod.
func inlineHandle(uid string) string { return "csi-" + strings.Repeat(uid[:1], 64) }

func inlineTarget(n *node, uid string) string {
	return n.target("pods/" + uid + "/volumes/kubernetes.io~csi/v/mount")
}

// publishInline publishes an inline volume as kubelet does. The attributes are the user's;
// kubelet's own attributes replace those of the same name.
func (n *node) publishInline(t *testing.T, uid string, attributes map[string]string) error {
	t.Helper()
	return n.publishInlineAs(t, inlineHandle(uid), uid, attributes)
}

func (n *node) publishInlineAs(
	t *testing.T, handle, uid string, attributes map[string]string,
) error {
	t.Helper()
	fixture.Must(t, os.MkdirAll(filepath.Dir(inlineTarget(n, uid)), 0o750))
	all := maps.Clone(attributes)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, map[string]string{
		volume.AttrPodUID:       uid,
		volume.AttrPodNamespace: "ns",
		volume.AttrPodName:      "pod",
		volume.AttrEphemeral:    "true",
	})
	return n.publish(t, &csi.NodePublishVolumeRequest{
		VolumeId:         handle,
		TargetPath:       inlineTarget(n, uid),
		VolumeCapability: capabilityOf(multiWriter),
		VolumeContext:    all,
	})
}

func (n *node) unpublishHandle(t *testing.T, handle, target string) error {
	t.Helper()
	_, err := n.NodeUnpublishVolume(t.Context(),
		&csi.NodeUnpublishVolumeRequest{VolumeId: handle, TargetPath: target})
	return err
}

func (n *node) inlineVolumes() int { return len(n.pool.Inline()) }

func TestSweepKeepsWhatALivePodMayWant(t *testing.T) {
	for _, tc := range []struct {
		title string
		// pods changes kubelet's directory of pods.
		pods func(t *testing.T, pods string)
		want int // inline volumes that the sweep leaves
	}{
		{"both pods live", func(*testing.T, string) {}, 2},
		{"one is gone", func(t *testing.T, pods string) {
			t.Helper()
			fixture.Must(t, os.RemoveAll(filepath.Join(pods, deadUID)))
		}, 1},
		{"the directory is missing", func(t *testing.T, pods string) {
			t.Helper()
			fixture.Must(t, os.RemoveAll(pods))
		}, 2},
		{"it is empty", func(t *testing.T, pods string) {
			t.Helper()
			fixture.Must(t, os.RemoveAll(pods))
			fixture.Must(t, os.Mkdir(pods, 0o750))
		}, 2},
		{"it cannot be read", func(t *testing.T, pods string) {
			t.Helper()
			fixture.Must(t, os.RemoveAll(pods))
			fixture.Must(t, os.WriteFile(pods, nil, 0o600))
		}, 2},
	} {
		t.Run(tc.title, func(t *testing.T) {
			n := newNode(t)
			for _, uid := range []string{deadUID, liveUID} {
				fixture.Must(t, n.publishInline(t, uid, nil))
				fixture.Must(t, unix.Unmount(inlineTarget(n, uid), 0)) // as after a reboot
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
	fixture.Must(t, n.publishInline(t, deadUID, nil))
	managed := n.create(t, "managed", volume.DirectoryOrCreate)
	for _, handle := range []string{"managed", managed.Dir(), inlineHandle(liveUID)} {
		fixture.Must(t, n.unpublishHandle(t, handle, n.target("elsewhere")))
	}
	if got := len(n.pool.List("", 10)); got != 2 {
		t.Errorf("%d volumes are left, want 2", got)
	}
	// A PersistentVolume may have the same handle. So an unpublish at another target does not delete
	// the pod's inline volume, not even after a reboot.
	fixture.Must(t, n.unpublishHandle(t, inlineHandle(deadUID), inlineTarget(n, liveUID)))
	fixture.Must(t, unix.Unmount(inlineTarget(n, deadUID), 0))
	n.restart(t)
	fixture.Must(t, n.unpublishHandle(t, inlineHandle(deadUID), inlineTarget(n, liveUID)))
	if got := n.inlineVolumes(); got != 1 {
		t.Errorf("%d inline volumes are left, want 1", got)
	}
	fixture.Must(t, n.unpublishHandle(t, inlineHandle(deadUID), inlineTarget(n, deadUID)))
	if got := n.inlineVolumes(); got != 0 {
		t.Errorf("%d inline volumes are left", got)
	}
	fixture.Must(t, n.checkUnused(t, managed))
}

func TestInlineVolumeIsKnownAfterARestart(t *testing.T) {
	n := newNode(t)
	fixture.Must(t, n.publishInline(t, deadUID, nil))
	n.restart(t)
	fixture.Must(t, n.publishInline(t, deadUID, nil))
	if got := mountsBelow(t, n.KubeletDir); len(got) != 1 {
		t.Errorf("mounted are %q", got)
	}
	for handle, want := range map[string]codes.Code{
		inlineHandle(deadUID): codes.OK, inlineHandle(liveUID): codes.NotFound, "other": codes.NotFound,
	} {
		resp, err := n.NodeGetVolumeStats(t.Context(),
			&csi.NodeGetVolumeStatsRequest{VolumeId: handle, VolumePath: inlineTarget(n, deadUID)})
		wantCode(t, err, want)
		if err == nil {
			wantUsage(t, resp.GetUsage())
		}
	}
}

// The CSI specification allows any string as a handle, not only the form that kubelet uses.
func TestInlineVolumeOfAnyHandleIsServedToItsEnd(t *testing.T) {
	for _, handle := range []string{"my vol", "../../x", "plain", "h-" + strings.Repeat("a", 40), strings.Repeat("ä", 64)} {
		t.Run(handle, func(t *testing.T) {
			n := newNode(t)
			fixture.Must(t, n.publishInlineAs(t, handle, deadUID, map[string]string{"size": "1Mi"}))
			for asked, want := range map[string]codes.Code{handle: codes.OK, handle[1:]: codes.NotFound} {
				resp, err := n.NodeGetVolumeStats(t.Context(),
					&csi.NodeGetVolumeStatsRequest{VolumeId: asked, VolumePath: inlineTarget(n, deadUID)})
				wantCode(t, err, want)
				if err == nil {
					wantUsage(t, resp.GetUsage())
				}
			}
			wantCode(t, n.unpublishHandle(t, handle[1:], inlineTarget(n, deadUID)), codes.FailedPrecondition)
			fixture.Must(t, n.unpublishHandle(t, handle, inlineTarget(n, deadUID)))
			if got := n.inlineVolumes(); got != 0 {
				t.Errorf("%d inline volumes are left", got)
			}
		})
	}
}

// The name of a volume's directory is not its ID. Otherwise a user who knows a claim's name could
// unmount its volume.
func TestNameOfAManagedVolumeIsNoHandleOfIt(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "managed", volume.DirectoryOrCreate)
	fixture.Must(t, n.publish(t, n.publishRequest(id, "pod")))
	wantCode(t, n.unpublishHandle(t, "managed", n.target("pod")), codes.FailedPrecondition)
	_, err := n.NodeGetVolumeStats(t.Context(),
		&csi.NodeGetVolumeStatsRequest{VolumeId: "managed", VolumePath: n.target("pod")})
	wantCode(t, err, codes.NotFound)
	fixture.Must(t, n.unpublishHandle(t, id.String(), n.target("pod")))
}

func TestManagedVolumeIsNotGivenToAPodAsItsOwn(t *testing.T) {
	n := newNode(t)
	n.create(t, inlineHandle(deadUID), volume.DirectoryOrCreate)
	wantCode(t, n.publishInline(t, deadUID, map[string]string{"size": "1Mi", "mode": "0755"}),
		codes.AlreadyExists)
	if got := mountsBelow(t, n.KubeletDir); len(got) != 0 {
		t.Errorf("mounted are %q", got)
	}
}

// twoPools implements Pools. The first pool is the default.
type twoPools struct {
	noPools // answers what health calls ask

	pools []*pool.Pool
}

func (p twoPools) ByID(id volume.PoolID) (*pool.Pool, error) {
	if i := slices.IndexFunc(p.pools, func(one *pool.Pool) bool { return one.ID() == id }); i >= 0 {
		return p.pools[i], nil
	}
	return nil, volume.ErrNotFound
}

func (p twoPools) ByName(string) (*pool.Pool, error) { return p.pools[0], nil }

func (p twoPools) Open() []*pool.Pool { return slices.Clone(p.pools) }

// After its own restart kubelet publishes every volume again.
func TestInlineVolumeStaysInItsPoolWhenAnotherOneBecomesTheDefault(t *testing.T) {
	n := newNode(t)
	other, err := pool.Open(t.Context(),
		pool.Options{Name: "other", Path: filepath.Join(t.TempDir(), "other")})
	fixture.Must(t, err)
	t.Cleanup(func() { fixture.Must(t, other.Close()) })
	n.Pools = twoPools{pools: []*pool.Pool{n.pool, other}}
	fixture.Must(t, n.publishInline(t, deadUID, nil))
	n.Pools = twoPools{pools: []*pool.Pool{other, n.pool}}
	n.restart(t)
	fixture.Must(t, n.publishInline(t, deadUID, nil))
	if here, there := len(n.pool.Inline()), len(other.Inline()); here != 1 || there != 0 {
		t.Errorf("the pools have %d and %d volumes, want 1 and none", here, there)
	}
	fixture.Must(t, n.publishInline(t, liveUID, nil))
	if got := len(other.Inline()); got != 1 {
		t.Errorf("the default pool has %d volumes, want 1", got)
	}
	for _, uid := range []string{deadUID, liveUID} {
		fixture.Must(t, n.unpublishHandle(t, inlineHandle(uid), inlineTarget(n, uid)))
	}
}
