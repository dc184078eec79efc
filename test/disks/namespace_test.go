package disks_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestNewMountNamespaceLeavesTheDisksOfOthers(t *testing.T) {
	kept, other := disks.New(t, disks.Ext4, 0), disks.New(t, disks.Ext4, 0)
	mounts, err := exec.Command("unshare", "--mount", "sh", "-ec",
		disks.LeaveOthers(kept.Dir)+"cat /proc/self/mounts").Output()
	fixture.Must(t, err)
	if !strings.Contains(string(mounts), kept.Dir+" ") {
		t.Errorf("the namespace lacks %s: %s", kept.Dir, mounts)
	}
	if strings.Contains(string(mounts), other.Dir+" ") {
		t.Errorf("the namespace still has %s: %s", other.Dir, mounts)
	}
	here, err := exec.Command("cat", "/proc/self/mounts").Output()
	fixture.Must(t, err)
	if !strings.Contains(string(here), other.Dir+" ") {
		t.Errorf("%s is unmounted here too", other.Dir)
	}
}
