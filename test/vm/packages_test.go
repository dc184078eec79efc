//go:build qemu

package vm

import "testing"

// TestPackagesPass runs tests of the driver on a kernel that clusters have: Debian's is years older
// than CI's.
func TestPackagesPass(t *testing.T) {
	Run(t, Config{Packages: []string{"./pkg/mount", "./pkg/image/loopdev"}})
}

// TestProjectQuotaBackendPasses runs the tests of the backend, those with the build tag vm too,
// where the kernel has project quotas.
func TestProjectQuotaBackendPasses(t *testing.T) {
	Run(t, Config{
		Packages: []string{"./pkg/backend/projquota"},
		Disks:    []Disk{{FS: "ext4", ProjectQuota: true}, {FS: "xfs", ProjectQuota: true}},
	})
}

// TestIOLimitsHold runs where the control groups are v2; those of CI are v1.
func TestIOLimitsHold(t *testing.T) {
	Run(t, Config{Packages: []string{"./pkg/nodeserver"}}, Boot{Run: "^TestIOLimit|^TestNewContainers"})
}

// TestFilesystemsGrow runs where root has every capability: without CAP_SYS_RESOURCE, as in many
// containers, ext4 does not grow.
func TestFilesystemsGrow(t *testing.T) {
	Run(t, Config{Packages: []string{"./pkg/image/filesystem"}}, Boot{Run: "^TestGrown"})
}
