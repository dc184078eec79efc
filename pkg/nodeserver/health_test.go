package nodeserver

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/fuse"
)

// reasonsOf are the reasons of a volume's conditions, the worst first.
func (n *node) reasonsOf(t *testing.T, req *csi.NodeGetVolumeHealthRequest) (reasons []string) {
	t.Helper()
	resp, err := n.NodeGetVolumeHealth(t.Context(), req)
	fixture.Must(t, err)
	if resp.GetVolumeHealth().GetVolumeId() != req.GetVolumeId() {
		t.Errorf("health of %q, asked for %q", resp.GetVolumeHealth().GetVolumeId(), req.GetVolumeId())
	}
	for _, e := range resp.GetVolumeHealth().GetHealthStatuses() {
		reasons = append(reasons, e.GetReason())
		if strings.Contains(e.GetMessage(), filepath.Dir(n.KubeletDir)) {
			t.Errorf("the message has a path of the node: %s", e.GetMessage())
		}
	}
	return reasons
}

// wantHealth compares the reasons of a volume that was published at "a", asked for with and without
// the paths.
func (n *node) wantHealth(t *testing.T, id volume.ID, want ...string) {
	t.Helper()
	for _, req := range []*csi.NodeGetVolumeHealthRequest{
		{VolumeId: id.String()},
		{VolumeId: id.String(), VolumePublishPath: n.target("a"), StagingTargetPath: n.target("staging")},
	} {
		if got := n.reasonsOf(t, req); !slices.Equal(got, want) {
			t.Errorf("health with the path %q: %q, want %q", req.GetVolumePublishPath(), got, want)
		}
	}
}

func TestHealthOfADirectory(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.Directory)
	if got := n.reasonsOf(t, &csi.NodeGetVolumeHealthRequest{VolumeId: id.String()}); len(got) > 0 {
		t.Errorf("a volume that is not published has %q", got)
	}
	fixture.Must(t, n.publish(t, n.publishRequest(id, "a")))
	n.wantHealth(t, id)
	fixture.Must(t, unix.Mount("tmpfs", n.target("a"), "tmpfs", 0, ""))
	n.wantHealth(t, id, "Covered")
	fixture.Must(t, unix.Unmount(n.target("a"), 0))
	n.wantHealth(t, id)
	fixture.Must(t, unix.Unmount(n.target("a"), 0))
	n.wantHealth(t, id, "NotMounted")
	data := filepath.Join(n.poolPath(), "volumes", id.Dir(), "data")
	fixture.Must(t, os.Rename(data, data+".moved"))
	n.wantHealth(t, id, "DataMissing")
	fixture.Must(t, os.Rename(data+".moved", data))
	n.wantHealth(t, id, "NotMounted")
	fixture.Must(t, n.unpublish(t, id, "a"))
	if got := n.reasonsOf(t, &csi.NodeGetVolumeHealthRequest{VolumeId: id.String()}); len(got) > 0 {
		t.Errorf("a volume that is not published any more has %q", got)
	}
}

func TestHealthOfADamagedRecord(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	healthy := n.create(t, "w", volume.DirectoryOrCreate)
	n.reopen(t, func() {
		record := filepath.Join(n.poolPath(), "volumes", id.Dir(), "volume.json")
		fixture.Must(t, os.WriteFile(record, []byte("{"), 0o600))
	})
	n.wantHealth(t, id, "RecordDamaged")
	if got := n.reasonsOf(t,
		&csi.NodeGetVolumeHealthRequest{VolumeId: healthy.String()}); len(got) > 0 {
		t.Errorf("the other volume has %q", got)
	}
	if page := n.pool.Unhealthy("", 9); len(page) != 1 || page[0].ID != id {
		t.Errorf("unhealthy are %v", page)
	}
	fixture.Must(t, n.pool.Delete(t.Context(), id))
	if page := n.pool.Unhealthy("", 9); len(page) > 0 {
		t.Errorf("unhealthy after its deletion are %v", page)
	}
	if again := n.create(t, "v", volume.DirectoryOrCreate); again == id {
		n.reasonsOf(t, &csi.NodeGetVolumeHealthRequest{VolumeId: again.String()})
		if faults, err := n.pool.Faults(again); err != nil || len(faults) > 0 {
			t.Errorf("the new volume of that name has %v, %v", faults, err)
		}
	}
}

// Who asks again and again, as kubelet does, is told the state of the moment.
func TestHealthOfAnImage(t *testing.T) {
	onEachFilesystem(t, func(n *imageNode) {
		n.stageAndPublish("a")
		n.wantHealth(n.t, n.id)
		fixture.Must(n.t, unix.Mount("", n.target("staging"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		got := n.reasonsOf(n.t, &csi.NodeGetVolumeHealthRequest{
			VolumeId: n.id.String(), VolumePublishPath: n.target("a"),
			StagingTargetPath: n.target("staging"),
		})
		if !slices.Equal(got, []string{"FilesystemReadOnly"}) {
			n.t.Errorf("a read-only filesystem has %q", got)
		}
		fixture.Must(n.t, unix.Mount("", n.target("staging"), "", unix.MS_REMOUNT, ""))
		n.wantHealth(n.t, n.id)
		fixture.Must(n.t, unix.Unmount(n.target("a"), 0))
		n.wantHealth(n.t, n.id, "NotMounted")
		n.takeDown("a")
	})
}

func TestHealthOfADamagedImage(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	n.stageAndPublish("a")
	n.takeDown("a")
	fixture.Must(t, n.unstage())
	image, err := os.ReadFile(n.imagePath())
	fixture.Must(t, err)
	fixture.Must(t, os.WriteFile(n.imagePath(), make([]byte, len(image)), 0o600))
	if err := n.stage(); !errors.Is(err, volume.ErrCorrupt) {
		t.Fatalf("stage an image without a filesystem: %v", err)
	}
	n.wantHealthUnpublished(t, "ImageDamaged")
	fixture.Must(t, os.WriteFile(n.imagePath(), image, 0o600))
	fixture.Must(t, n.stage())
	n.wantHealthUnpublished(t)
	fixture.Must(t, n.unstage())
	n.reopen(t, func() { fixture.Must(t, os.Truncate(n.imagePath(), 1<<20)) })
	n.wantHealthUnpublished(t, "ImageIncomplete")
	counts := statusOf(t, n.pool).Faults
	if counts[volume.FaultImageIncomplete] != 1 || len(counts) != len(volume.PoolFaults()) {
		t.Errorf("the numbers of faults are %v", counts)
	}
	n.reopen(t, func() { fixture.Must(t, os.WriteFile(n.imagePath(), image, 0o600)) })
	n.wantHealthUnpublished(t)
}

func statusOf(t *testing.T, p *pool.Pool) pool.Status {
	t.Helper()
	s, err := p.Status()
	fixture.Must(t, err)
	return s
}

func (n *imageNode) wantHealthUnpublished(t *testing.T, want ...string) {
	t.Helper()
	got := n.reasonsOf(t, &csi.NodeGetVolumeHealthRequest{VolumeId: n.id.String()})
	if !slices.Equal(got, want) {
		t.Errorf("health: %q, want %q", got, want)
	}
}

func TestHealthOfARawBlockVolume(t *testing.T) {
	n := newImageNode(t, blockSpec())
	fixture.Must(t, n.stageBlock())
	fixture.Must(t, n.publishBlock("a"))
	n.wantHealth(t, n.id)
	fixture.Must(t, unix.Unmount(n.target("a"), 0))
	n.wantHealth(t, n.id, "NotMounted")
	n.takeDown("a")
}

// The image has died with its disk; the pool's own condition is the driver's to say.
func TestHealthOfAnImageOnADeadDisk(t *testing.T) {
	n := newMortalNode(t, "", imageSpec(volume.Ext4))
	n.stageAndPublish("a")
	n.Pools = deadPool{onePool{n.pool}}
	n.disk.Shutdown(t)
	n.wantHealth(t, n.id, "DiskFailed")
	n.takeDown("a")
	fixture.Must(t, n.unstage())
}

// deadPool is a pool whose disk has failed.
type deadPool struct{ onePool }

func (p deadPool) Candidates(volume.PoolID) ([]health.Pool, error) {
	return []health.Pool{{Name: "p", Pool: p.Pool, Reason: volume.ReasonDiskFailed}}, nil
}

func TestHealthOfAPoolThatIsNotOpen(t *testing.T) {
	n := newNode(t)
	got := n.reasonsOf(t, &csi.NodeGetVolumeHealthRequest{VolumeId: closedPool + "-v"})
	if !slices.Equal(got, []string{"PoolNotMounted"}) {
		t.Errorf("a volume of a pool that is not open has %q", got)
	}
}

func TestHealthCallAnswersWithItsCode(t *testing.T) {
	n := newNode(t)
	for _, tc := range []struct {
		req  *csi.NodeGetVolumeHealthRequest
		want codes.Code
	}{
		{&csi.NodeGetVolumeHealthRequest{}, codes.InvalidArgument},
		{&csi.NodeGetVolumeHealthRequest{VolumeId: string(n.pool.ID()) + "-v"}, codes.NotFound},
		{&csi.NodeGetVolumeHealthRequest{VolumeId: "0123456789ab-v"}, codes.NotFound},
		{&csi.NodeGetVolumeHealthRequest{VolumeId: "by-hand"}, codes.NotFound},
		{
			&csi.NodeGetVolumeHealthRequest{
				VolumeId: string(n.pool.ID()) + "-v", VolumePublishPath: "/elsewhere",
			}, codes.InvalidArgument,
		},
	} {
		_, err := n.NodeGetVolumeHealth(t.Context(), tc.req)
		wantCode(t, err, tc.want)
	}
}

// Somebody has mounted what does not answer over the staging path. It is not the volume's, so it is
// not asked.
func TestHealthDoesNotWaitForAForeignFilesystem(t *testing.T) {
	n := newMortalNode(t, "", imageSpec(volume.Ext4))
	fixture.Must(t, n.stage())
	fs := fuse.Mount(t, n.target("staging"))
	defer fs.Die()
	fs.Hang()
	got := n.reasonsOf(t, &csi.NodeGetVolumeHealthRequest{
		VolumeId: n.id.String(), StagingTargetPath: n.target("staging"),
	})
	if len(got) > 0 {
		t.Errorf("health: %q", got)
	}
	fs.WantAlive(t)
}

// A path of the host is on a filesystem that hangs, and then dies.
func TestHealthOfAPathOfTheHost(t *testing.T) {
	n := newNode(t)
	n.askingHealth = stuck.NewCalls(10 * time.Millisecond)
	target := filepath.Join(n.KubeletDir, "ref")
	fixture.Must(t, os.Mkdir(target, 0o755))
	at, err := n.parseTarget("target", target)
	fixture.Must(t, err)
	fs := fuse.Mount(t, target)
	defer fs.Die()
	n.Publications.enter(at, publication{volume: "by-hand"})
	ask := func() string {
		t.Helper()
		return strings.Join(n.reasonsOf(t, &csi.NodeGetVolumeHealthRequest{
			VolumeId: "by-hand", VolumePublishPath: target,
		}), " ")
	}
	fixture.Eventually(t, "the path is healthy", func() bool { return ask() == "" })
	fs.Hang()
	fixture.Eventually(t, "the path hangs", func() bool { return ask() == "FilesystemHangs" })
	fs.WantAlive(t)
	fs.Die()
	fixture.Eventually(t, "the path is dead", func() bool { return ask() == "FilesystemFailed" })
	fixture.Must(t, unix.Unmount(target, unix.MNT_DETACH))
	if got := ask(); got != "NotMounted" {
		t.Errorf("after its unmount the path has %q", got)
	}
}

func TestStorageHealthOfTheNode(t *testing.T) {
	n := newNode(t)
	resp, err := n.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
	if err != nil || len(resp.GetBackendHealth()) > 0 {
		t.Errorf("a healthy node has %v, %v", resp, err)
	}
	n.Pools = noPools{}
	n.NodeReasons = func() []volume.Reason { return []volume.Reason{volume.ReasonKubeletAbsent} }
	resp, err = n.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
	fixture.Must(t, err)
	var reasons []string
	for _, e := range resp.GetBackendHealth() {
		reasons = append(reasons, e.GetReason())
	}
	if want := []string{"DiskFailed", "KubeletDirectoryAbsent"}; !slices.Equal(reasons, want) {
		t.Errorf("the node has %q, want %q", reasons, want)
	}
}
