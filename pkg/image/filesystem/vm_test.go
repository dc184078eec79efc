package filesystem_test

import (
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/vm"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// TestWhereRootHasEveryCapability grows filesystems in the virtual machine: ext4 grows only there,
// where root lacks CAP_SYS_RESOURCE here.
func TestWhereRootHasEveryCapability(t *testing.T) {
	if guest.Running() {
		return
	}
	vm.Run(t, vm.Config{Packages: []string{"./pkg/image/filesystem"}}, vm.Boot{Run: "^TestGrown"})
}
