//go:build vm

package quotas

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

const precious = "written and fsynced before the power went"

// rebooted is a node with a directory and a file volume, as it is before and after the power cut.
func rebooted(t *testing.T, fstype string) (*node, []pod) {
	t.Helper()
	n := newNode(t, guest.Disk(t, fstype), "reboot", "")
	n.Start()
	return n, []pod{n.newPod("a"), n.newPod("b")}
}

// TestThePowerGoes runs last, and does not end: everything is published, one limit is gone behind
// the driver's back, and another is not what the record says.
func TestThePowerGoes(t *testing.T) {
	for _, fstype := range filesystems {
		n, pods := rebooted(t, fstype)
		for i := range pods {
			n.Must(pods[i].begin(t.Context(), n))
			n.Must(writeDurably(pods[i].file()))
		}
		quotas := guest.ProjectQuotas(t, n.disk, firstID)
		if len(quotas) != len(pods) {
			t.Fatalf("quotas are %+v", quotas)
		}
		wrong := uint64(0)
		for id := range quotas {
			guest.LimitProject(t, n.disk, id, wrong)
			wrong += 5 * mib
		}
	}
	if t.Failed() {
		return // with the power on, which fails the boot
	}
	unix.Sync() // else the limits would be lost, and the right ones come back
	guest.CutPower()
}

// TestAfterPowerCut is the next boot: the driver starts, finds what there was, sees to the limits,
// and kubelet publishes everything again at the targets that are still there.
func TestAfterPowerCut(t *testing.T) {
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			n, pods := rebooted(t, fstype)
			if got := n.volumes(); len(got) != len(pods) {
				t.Fatalf("the driver lists %q", got)
			}
			if n := strings.Count(
				n.Log(),
				"The size of a volume was not as its record says, and is again",
			); n != len(
				pods,
			) {
				t.Errorf("%d quotas were put right, want both", n)
			}
			listed := n.volumes()
			for i := range pods {
				n.Must(pods[i].begin(t.Context(), n)) // a retried CreateVolume, and a publish
				if !slices.Contains(listed, pods[i].id) {
					t.Errorf("%s is volume %s, not one of %q", pods[i].name, pods[i].id, listed)
				}
				if got, err := os.ReadFile(pods[i].file()); string(got) != precious {
					t.Errorf("%s has %q, %v", pods[i].name, got, err)
				}
			}
			n.forAll("filled", pods, (*pod).fill)
			n.forAll("asked for their use", pods, (*pod).check)
			n.wantQuotas(len(pods))
			n.forAll("unpublished and deleted", pods, (*pod).end)
			n.wantNothingLeft()
		})
	}
}

// writeDurably writes what has to outlive the power cut, and its name.
func writeDurably(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(precious); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
