package surroundings

import (
	"os/exec"
	"strings"
	"testing"

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
	cmd := exec.CommandContext(t.Context(), fixture.Build(t), "check", "--node-name=node-1",
		"--kubelet-dir="+n.path("hanging"), "--pool=default="+n.path("pool"))
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), said) {
		t.Errorf("check: %v, want a failure that says %q:\n%s", err, said, out)
	}
	fs.Answer()
	n.wantReady()
	fs.WantAlive(t)
}
