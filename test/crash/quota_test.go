//go:build vm

package crash

import (
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// firstID is the smallest project ID of a volume (pkg/backend/projquota).
const firstID = 1 << 30

// TestSIGKILLAtEveryStepLeaksNoQuota looks for project IDs and limits that no directory uses any
// more. The operations are divided among the filesystems with project quotas, because starts take
// long where the processor is emulated.
func TestSIGKILLAtEveryStepLeaksNoQuota(t *testing.T) {
	binary := fixture.Build(t, "failpoint")
	for _, tt := range []struct {
		fstype     string
		op         operation
		volumeType string
	}{
		{disks.XFS, creating, "DirectoryOrCreate"},
		{disks.Ext4, expanding, "FileOrCreate"},
		{disks.XFS, deleting, "FileOrCreate"},
		{disks.Ext4, snapshotting, "DirectoryOrCreate"},
		{disks.XFS, restoring, "DirectoryOrCreate"},
		{disks.Ext4, unsnapshotting, "FileOrCreate"},
	} {
		t.Run(tt.fstype+" "+string(tt.op), func(t *testing.T) {
			disk := disks.New(t, tt.fstype, 0)
			hit := map[string]bool{}
			crashAtEveryStep(t, binary, filepath.Join(disk.Dir, "crash"), tt.op, tt.volumeType, hit)
			if len(hit) == 0 {
				t.Error("the driver never died: was it built with the tag failpoint?")
			}
			if left := guest.ProjectQuotas(t, disk.Dir, firstID); len(left) > 0 {
				t.Errorf("quotas are left: %+v", left)
			}
		})
	}
}
