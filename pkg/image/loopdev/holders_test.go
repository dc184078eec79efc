package loopdev_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestHolderInAContainerIsNamedWithTheContainer(t *testing.T) {
	d := attach(t, newImage(t, t.TempDir(), mib), loopdev.Options{})
	defer d.Close()
	proc := t.TempDir()
	id := strings.Repeat("0123456789abcdef", 4)
	for name, text := range map[string]string{
		"comm":      "fio\n",
		"cgroup":    "0::/kubepods.slice/cri-containerd-" + id + ".scope\n",
		"mountinfo": fmt.Sprintf("36 35 7:%d / /data rw - ext4 %s rw\n", d.Number(), d.Path()),
	} {
		fixture.Must(t, os.MkdirAll(filepath.Join(proc, "77", "ns"), 0o700))
		fixture.Must(t, os.WriteFile(filepath.Join(proc, "77", name), []byte(text), 0o600))
	}
	fixture.Must(t, os.Symlink("mnt:[4026532000]", filepath.Join(proc, "77/ns/mnt")))
	want := "process 77 (fio) of container 0123456789ab, which has its filesystem mounted at /data " +
		"in the mount namespace mnt:[4026532000]"
	if got := d.Holders(proc); len(got) != 1 || got[0] != want {
		t.Errorf("the holders are %q, want %q", got, want)
	}
}
