package nodechecks

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/fuse"
)

// A driver that is started waits, says for what, and goes on when the filesystem answers. If it
// ended instead, a thread that hangs could keep its process, and so its successor, waiting without
// a word.
func TestStartSaysThatKubeletsDirectoryHangs(t *testing.T) {
	n := newNode(t)
	n.mkdir("hanging")
	fs := fuse.Mount(t, n.path("hanging"))
	defer fs.Die() // before the driver is waited for
	const page = "node: not ready: kubelet_hangs"
	said := "does not answer: that of kubelet's directory " + n.path("hanging")

	fs.Hang()
	n.run("exec", "--kubelet-dir="+n.path("hanging"))
	n.wantNotReady(page + " (the driver's log has more)\npool default: not ready: opening")
	if !strings.Contains(n.Log(), said) {
		t.Errorf("the log does not say %q", said)
	}
	fs.Answer()
	n.wantReady()

	fs.Hang()
	n.wantNotReady(page)
	out, err := n.check("exec", "--kubelet-dir="+n.path("hanging"), "--pool=default="+n.path("pool"))
	if err == nil || !strings.Contains(out, said) {
		t.Errorf("check: %v, want a failure that says %q:\n%s", err, said, out)
	}
	fs.Answer()
	n.wantReady()
	fs.WantAlive(t)
}

// The disk of a pool is mounted in a filesystem that hangs.
func TestNodeServesItsOtherPoolsWhileOneHangs(t *testing.T) {
	n := newNode(t)
	n.mkdir("hanging")
	fs := fuse.Mount(t, n.path("hanging"))
	defer fs.Die() // before the driver is waited for
	fixture.Must(t, unix.Mount("tmpfs", n.path("hanging/mount"), "tmpfs", 0, ""))
	hanging := n.path("hanging/mount")
	n.pools = nil
	config := n.path("config.yaml")
	const text = "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" +
		"pools: [{name: default, default: true, path: %s}, {name: other, path: %s}]\n"
	fixture.Must(t, os.WriteFile(config, fmt.Appendf(nil, text, n.path("pool"), hanging), 0o600))
	n.run("exec", "--config", config)
	n.wantReady()
	fs.Hang()
	n.wantNotReady("pool other: not ready: hangs")
	fixture.Must(t, n.publish(n.KubeletDir()))
	if !n.isPublished() {
		t.Errorf("the volume of the other pool is not there: %q", n.mounts())
	}
	if out, err := n.check("exec", "--config", config); err == nil || !strings.Contains(out, hanging) {
		t.Errorf("check: %v, want a failure that names %s:\n%s", err, hanging, out)
	}
	// A thread keeps the driver from ending. Its pools are free all the same.
	old := n.Process
	n.Process = nil
	fixture.Must(t, unix.Kill(old.PID(), unix.SIGTERM))
	n.run("exec", "--pool=default="+n.path("pool"))
	n.wantReady()
	select {
	case <-old.Exited():
		t.Error("the kernel ends a process that waits for a filesystem: this test shows little")
	default:
	}
	fs.WantAlive(t)
	fs.Die()
	<-old.Exited()
}
