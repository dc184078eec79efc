//go:build qemu

// Package quotas runs the driver's own process on filesystems that hold it to its word, XFS and
// ext4 with project quotas, in the virtual machine that has them: csi-sanity and the tests of pools
// and crashes once more, a thousand full volumes, a full disk, the machine's power cut.
package quotas

import (
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/vm"
)

// TestDriverOnProjectQuotas boots twice: the power goes while volumes are published, and comes
// back.
func TestDriverOnProjectQuotas(t *testing.T) {
	machine := vm.Config{
		Packages: packages,
		Programs: []string{"./cmd/csi-hostpath"},
		Tags:     []string{"failpoint"},
		Memory:   2 << 30,
	}
	for _, fstype := range []string{disks.XFS, disks.Ext4} {
		machine.Disks = append(machine.Disks, vm.Disk{FS: fstype, Size: 2 << 30, ProjectQuota: true})
	}
	vm.Run(t, machine,
		vm.Boot{
			Env: []string{
				disks.ProjectQuotaEnv + "=1",
			},
			Flags:    []string{"-test.skip=" + "^(" + strings.Join(leftOut, "|") + ")$"},
			Timeout:  45 * time.Minute,
			PowerCut: true,
		},
		vm.Boot{Run: "^TestAfterPowerCut$"},
	)
}
