package projquota

import (
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/vm"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// TestOnAKernelWithProjectQuotas runs this package's tests where they can run.
func TestOnAKernelWithProjectQuotas(t *testing.T) {
	if guest.Running() {
		return
	}
	var machine vm.Config
	machine.Packages = []string{"./pkg/backend/projquota"}
	for _, fstype := range filesystems {
		machine.Disks = append(machine.Disks, vm.Disk{FS: fstype, ProjectQuota: true})
	}
	vm.Run(t, machine)
}
