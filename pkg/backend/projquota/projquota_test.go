package projquota

import (
	"os"
	"testing"
	"unsafe"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/vm"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

var filesystems = []string{disks.Ext4, disks.XFS}

// TestOnAKernelWithProjectQuotas runs this package's tests, those with the build tag vm too, where they can run.
func TestOnAKernelWithProjectQuotas(t *testing.T) {
	if guest.Running() {
		return
	}
	machine := vm.Config{Packages: []string{"./pkg/backend/projquota"}}
	for _, fstype := range filesystems {
		machine.Disks = append(machine.Disks, vm.Disk{FS: fstype, ProjectQuota: true})
	}
	vm.Run(t, machine)
}

func TestFilesystemWithoutQuotasIsNotUsed(t *testing.T) {
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, ok, err := Open(root, Enforce, 0); ok || err != nil {
		t.Errorf("open: %t, %v; want false", ok, err)
	}
}

// Before Linux 5.14 the driver looks for a filesystem's device only where that has quotas to reach.
func TestFilesystemWithoutQuotasNeedsNoDevice(t *testing.T) {
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, ok, err := findByDevice(root, "/nowhere"); ok || err != nil {
		t.Errorf("find: %t, %v; want false", ok, err)
	}
}

// The kernel's structures (linux/quota.h, linux/dqblk_xfs.h, linux/fs.h) are as long on every 64-bit machine.
func TestStructuresAreTheKernels(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"if_dqblk":      {unsafe.Sizeof(dqblk{}), 72},
		"fs_quota_stat": {unsafe.Sizeof(quotaStat{}), 80},
		"fsxattr":       {unsafe.Sizeof(attributes{}), 28},
	} {
		if size[0] != size[1] {
			t.Errorf("struct %s has %d bytes, the kernel's %d", name, size[0], size[1])
		}
	}
}
