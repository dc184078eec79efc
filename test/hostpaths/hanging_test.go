package hostpaths

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/fuse"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// stats asks for as long as the context.
func (n *node) stats(ctx context.Context, v volumeOf) error {
	_, err := n.Node.NodeGetVolumeStats(ctx,
		&csi.NodeGetVolumeStatsRequest{VolumeId: v.handle, VolumePath: n.target(v)})
	return err
}

// askInVain asks as one who does not wait.
func (n *node) askInVain(v volumeOf) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 100*time.Millisecond)
	defer cancel()
	err := n.stats(ctx, v)
	if c := status.Code(err); c != codes.DeadlineExceeded && c != codes.Unavailable {
		n.t.Errorf("statistics of a filesystem that hangs: %v", err)
	}
}

// publishInVain publishes as one who does not wait.
func (n *node) publishInVain(v volumeOf) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 100*time.Millisecond)
	defer cancel()
	err := n.publishUntil(ctx, v, v.kubeletSays())
	if c := status.Code(err); c != codes.DeadlineExceeded && c != codes.Unavailable {
		n.t.Errorf("a path of a filesystem that hangs: %v", err)
	}
}

// wantUnavailable asks until the answer is no longer that somebody waits.
func (n *node) wantUnavailable(ask func() error, words ...string) {
	n.t.Helper()
	var err error
	fixture.Eventually(n.t, "a call is answered", func() bool {
		err = ask()
		return status.Code(err) != codes.Aborted && status.Code(err) != codes.DeadlineExceeded
	}, func() any { return err })
	n.wantCode(err, codes.Unavailable, words...)
}

// terminate asks the driver to end, and does not wait for it.
func (n *node) terminate() *process.Process {
	n.t.Helper()
	old := n.Process
	n.Process = nil
	n.Must(syscall.Kill(old.PID(), syscall.SIGTERM))
	return old
}

const unanswered = "does not answer"

// newNodeWithFUSE returns a node that has published a directory of a FUSE filesystem to a pod.
func newNodeWithFUSE(t *testing.T) (*node, *fuse.Server, volumeOf) {
	t.Helper()
	n := newNode(t, everything)
	fs := fuse.Mount(t, n.mkdir("srv/fuse"))
	v := persistent(podA, "pv", "path", n.Path("srv/fuse"), "type", "Directory")
	n.Must(n.publish(v))
	return n, fs, v
}

func TestPathWhoseFilesystemHangsCostsOneThreadAndIsUnpublished(t *testing.T) {
	n := newNode(t, everything)
	fs := fuse.Mount(t, n.mkdir("srv/fuse"))
	a := inline(podA, "v", "path", n.Path("srv/fuse"), "type", "Directory")
	b := persistent(podB, "pv", "path", n.Path("srv/fuse/sub"), "type", "Directory")
	n.Must(n.publish(a))
	n.Must(n.publish(b))
	n.wantStats(a)
	fs.Hang()
	for range 20 {
		n.askInVain(a)
	}
	if asked := fs.Asked(); asked != 1 {
		t.Errorf("20 calls have asked %d questions", asked)
	}
	n.wantUnavailable(func() error { return n.stats(t.Context(), a) },
		unanswered, "since", "restart it")
	n.wantUnavailable(func() error { return n.publish(b) }, unanswered)
	for range 2 {
		n.Must(n.unpublish(a))
		n.Must(n.unpublish(b))
	}
	n.endPod(podA)
	n.endPod(podB)
	if mounts := n.Mounts("kubelet"); len(mounts) > 0 {
		t.Errorf("still mounted: %q", mounts)
	}
	fs.Die()
}

// A tenant makes pod after pod on paths of one filesystem that hangs.
func TestPodsOnPathsThatHangCostABoundedNumberOfThreads(t *testing.T) {
	n := newNode(t, everything)
	fs := fuse.Mount(t, n.mkdir("srv/fuse"))
	n.mkdir("srv/disk")
	const pods = 30
	volumes := make([]volumeOf, pods)
	for i := range volumes {
		p := pod{uid: fmt.Sprintf("6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7%04x", i), namespace: "team-a"}
		volumes[i] = inline(p, "v", "path", n.Path("srv/fuse"), "type", "Directory")
		n.Must(n.publish(volumes[i]))
	}
	fs.Hang()
	for i, v := range volumes {
		n.askInVain(v)
		below := fmt.Sprintf("srv/fuse/%d", i)
		n.publishInVain(inline(v.pod, "w", "path", n.Path(below), "type", "Directory"))
	}
	const most = 5 // one for statistics, and a lane each
	if asked := fs.Asked(); asked > most {
		t.Errorf("%d pods have asked %d questions, want at most %d", pods, asked, most)
	}
	healthy := inline(podB, "v", "path", n.Path("srv/disk"), "type", "Directory")
	n.Must(n.publish(healthy))
	n.wantStats(healthy)
	n.Must(n.unpublish(healthy))
	for _, v := range volumes {
		n.Must(n.unpublish(v))
	}
	fs.Die()
}

func TestPathWhoseFilesystemAnswersAgainIsAsBefore(t *testing.T) {
	n, fs, v := newNodeWithFUSE(t)
	fs.Hang()
	n.askInVain(v)
	fs.Answer()
	n.Must(n.publish(v))
	n.wantStats(v)
	n.Must(n.unpublish(v))
}

func TestDriverThatHasAskedAPathThatHangsGivesItsPoolsUp(t *testing.T) {
	n := newNode(t, everything)
	fs := fuse.Mount(t, n.mkdir("srv/fuse"))
	v := inline(podA, "v", "path", n.Path("srv/fuse"), "type", "Directory")
	n.Must(n.publish(v))
	fs.Hang()
	n.askInVain(v)
	old := n.terminate()
	n.Start() // it waits until the pool is open
	select {
	case <-old.Exited():
		t.Error("the kernel ends a process that waits for a filesystem: this test shows nothing")
	default:
	}
	n.Must(n.unpublish(v))
	fs.Die()
	<-old.Exited()
}

func TestDriverStartsWhilePathsHang(t *testing.T) {
	n, fs, v := newNodeWithFUSE(t)
	// The pod has something mounted in its volume, where kubelet has a target in others.
	n.Must(unix.Mount("tmpfs", filepath.Join(n.target(v), "mount"), "tmpfs", 0, ""))
	n.Stop()
	fs.Hang()
	n.Start()
	n.Must(n.unpublish(v))
	n.endPod(podA)
	if asked := fs.Asked(); asked > 0 {
		t.Errorf("the start has asked %d questions", asked)
	}
	fs.Die()
}

func TestPathWhoseServerHasDiedIsPublishedAgainAfterTheRemount(t *testing.T) {
	n := newNode(t, everything)
	dir := n.mkdir("srv/fuse")
	dead := fuse.Mount(t, dir)
	v := persistent(podA, "pv", "path", dir, "type", "Directory")
	n.Must(n.publish(v))
	dead.Die()
	n.wantCode(n.stats(t.Context(), v), codes.Unavailable, "not connected", "restart it")
	n.wantCode(n.publish(v), codes.Unavailable, "not connected", "restart it")
	n.Must(unix.Unmount(dir, unix.MNT_DETACH))
	fuse.Mount(t, dir)
	for range 2 {
		n.Must(n.publish(v))
	}
	n.wantStats(v)
	if _, err := os.Stat(filepath.Join(n.target(v), "sub")); err != nil {
		t.Errorf("the target shows the filesystem that has died: %v", err)
	}
	for range 2 {
		n.Must(n.unpublish(v))
	}
	if mounts := n.Mounts("kubelet"); len(mounts) > 0 {
		t.Errorf("still mounted: %q", mounts)
	}
}

func TestPathWhoseServerHasDiedIsUnpublished(t *testing.T) {
	n, fs, v := newNodeWithFUSE(t)
	fs.Die()
	n.Start()
	for range 2 {
		n.Must(n.unpublish(v))
	}
	n.endPod(podA)
}

func TestPathWhoseFilesystemDoesNotLetRootInSaysSo(t *testing.T) {
	n := newNode(t, everything)
	dir := n.mkdir("srv/fuse")
	v := persistent(podA, "pv", "path", dir, "type", "Directory")
	n.Must(n.publish(v))
	fuse.MountOfUser(t, n.target(v)) // over the target
	n.Must(n.unpublish(v))
	fuse.MountOfUser(t, dir)
	n.wantCode(n.publish(v), codes.FailedPrecondition, "allow_other")
	n.Must(n.unpublish(v))
	n.endPod(podA)
}
