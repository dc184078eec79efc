package nodechecks

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// inNamespace is what a script does in a mount namespace of its own, before it runs the driver.
func inNamespace(propagation, dir string) string {
	return "if [ -z \"$inside\" ]; then inside=yes exec unshare --mount --propagation " +
		propagation + " \"$0\" \"$@\"; fi\n" + disks.LeaveOthers(dir) + "exec"
}

func (n *node) asContainer() string { return inNamespace("unchanged", n.dir) }

func (n *node) private() string { return inNamespace("private", n.dir) }

// A container with Bidirectional mount propagation: what the driver mounts, the node sees.
func TestSharedKubeletDirectoryIsFit(t *testing.T) {
	n := newNode(t)
	n.run(n.asContainer())
	n.wantReady()
	fixture.Must(t, n.publish(n.KubeletDir()))
	if !n.isPublished() {
		t.Errorf("the node does not see the volume: %q", n.mounts())
	}
}

func TestPrivateKubeletDirectoryIsRefusedAtTheStart(t *testing.T) {
	n := newNode(t)
	n.run(n.private())
	n.wantUnfit("node: not ready: kubelet_private", "is not shared with the node", n.private())
}

func TestPrivateDirectoryOfPodsIsRefusedAtTheStart(t *testing.T) {
	n := newNode(t)
	n.bind("kubelet/pods", "kubelet/pods")
	n.remount("kubelet/pods", unix.MS_PRIVATE)
	n.run(n.asContainer())
	n.wantUnfit("node: not ready: kubelet_private", "is not shared with the node", n.asContainer())
}

func TestLinkInKubeletsDirectoryIsRefusedUntilItIsADirectory(t *testing.T) {
	n := newNode(t)
	fixture.Must(t, os.RemoveAll(n.path("kubelet/pods")))
	n.mkdir(podDir)
	fixture.Must(t, os.Symlink(n.path("pods"), n.path("kubelet/pods")))
	n.run("exec")
	n.wantUnfit("node: not ready: kubelet_link", "is a symbolic link to", "exec")
	// What the message says, while the driver runs.
	fixture.Must(t, os.Remove(n.path("kubelet/pods")))
	n.mkdir("kubelet/pods")
	n.bind("pods", "kubelet/pods")
	n.wantReady()
	fixture.Must(t, n.publish(n.KubeletDir()))
	if !n.isPublished() {
		t.Errorf("the volume is not there: %q", n.mounts())
	}
}

// wantUnfit wants the fault in Probe, on the page, in the log, in the check command, and in the
// calls that would mount.
func (n *node) wantUnfit(line, message, before string) {
	n.t.Helper()
	n.wantNotReady(line)
	err := n.publish(n.KubeletDir())
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), message) {
		n.t.Errorf("publish: %v, want UNAVAILABLE and %q", err, message)
	}
	if n.isPublished() {
		n.t.Error("the volume is published")
	}
	if !strings.Contains(n.Log(), message) {
		n.t.Errorf("the log does not say %q", message)
	}
	out, err := n.check(before)
	if err == nil || !strings.Contains(out, message) {
		n.t.Errorf("check: %v, want a failure that says %q:\n%s", err, message, out)
	}
}

// check runs the check command with the driver's arguments; by default those that name the pool.
func (n *node) check(before string, args ...string) (string, error) {
	n.t.Helper()
	if len(args) == 0 {
		args = []string{"--pool=default=" + n.path("pool")}
	}
	args = append([]string{
		"-c", before + ` "$0" "$@"`, fixture.Build(n.t), "check", "--node-name=node-1",
		"--kubelet-dir=" + n.KubeletDir(),
	}, args...)
	cmd := exec.CommandContext(n.t.Context(), "/bin/sh", args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestKubeletMayUseAnotherNameOfItsDirectory(t *testing.T) {
	for title, makeName := range map[string]func(n *node){
		"symbolic link": func(n *node) {
			fixture.Must(n.t, os.Symlink(n.path("kubelet"), n.path("link")))
		},
		"link on the way": func(n *node) {
			fixture.Must(n.t, os.Symlink(n.dir, n.path("way")))
			fixture.Must(n.t, os.Symlink("way/kubelet", n.path("link")))
		},
		"bind mount": func(n *node) {
			n.mkdir("link")
			n.bind("kubelet", "link") // of the same peer group
		},
	} {
		t.Run(title, func(t *testing.T) {
			n := newNode(t)
			makeName(n)
			n.run("exec")
			n.wantReady()
			fixture.Must(t, n.publish(n.path("link")))
			if !n.isPublished() {
				t.Errorf("the volume is not there: %q", n.mounts())
			}
			fixture.Must(t, n.publish(n.KubeletDir())) // it is the same target
			if err := n.publish(n.path("pool")); status.Code(err) != codes.InvalidArgument {
				t.Errorf("publish elsewhere: %v, want INVALID_ARGUMENT", err)
			}
		})
	}
}

func TestPoolOnADiskWithoutExecIsReported(t *testing.T) {
	n := newNode(t)
	disk := disks.New(t, disks.Ext4, 0)
	fixture.Must(t, unix.Mount(disk.Dir, n.path("pool"), "", unix.MS_BIND, ""))
	n.remount("pool", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOEXEC)
	n.run("exec")
	n.wantReady()
	const line, message = "pool default: ready, noexec\n", "its disk is mounted noexec"
	if code, body := n.page("/readyz"); code != 200 || body != "ok\n"+line {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if _, body := n.page("/statusz"); body != line {
		t.Errorf("/statusz: %s", body)
	}
	if !strings.Contains(n.Log(), message) {
		t.Errorf("the log does not say %q", message)
	}
	if out, err := n.check("exec"); err != nil || !strings.Contains(out, message) {
		t.Errorf("check: %v, want success and %q:\n%s", err, message, out)
	}
}

func TestBindMountOfADirectoryIsAMountpoint(t *testing.T) {
	n := newNode(t)
	disk := disks.New(t, disks.Ext4, 0)
	source := filepath.Join(disk.Dir, "pool")
	fixture.Must(t, os.Mkdir(source, 0o700))
	n.run("exec", n.requireMountpoint(n.path("pool"))...)
	n.wantNotReady("pool default: not ready: not_mounted")
	fixture.Must(t, unix.Mount(source, n.path("pool"), "", unix.MS_BIND, ""))
	n.wantReady()
}

// A container's runtime mounts the directory of the node that the container asks for, also where
// the node's disk is missing.
func TestMountOfAContainersRuntimeIsNoMountpoint(t *testing.T) {
	n := newNode(t)
	n.mkdir("root")
	n.run(`
node=`+n.dir+` root=`+n.dir+`/root
if [ -z "$inside" ]; then inside=yes exec unshare --mount --propagation private "$0" "$@"; fi
`+disks.LeaveOthers(n.dir)+`
mount -t tmpfs container $root
for dir in /proc /dev $node ${driver%/*}; do
	mkdir -p $root$dir
	mount --rbind $dir $root$dir
done
mkdir -p $root/disks/pool
mount --bind $node/pool $root/disks/pool
export inside
exec chroot $root`, n.requireMountpoint("/disks/pool")...)
	n.wantNotReady("node: not ready: kubelet_private (the driver's log has more)\n" +
		"pool default: not ready: not_mounted")
	if !strings.Contains(n.Log(), "mounted for this container") {
		t.Error("the log does not say what is mounted there")
	}
}

func mountsBelow(t *testing.T, dir string) (points []string) {
	t.Helper()
	table, err := mount.Table()
	fixture.Must(t, err)
	for _, m := range table {
		if strings.HasPrefix(m.Point, dir+"/") {
			points = append(points, m.Point)
		}
	}
	return points
}
