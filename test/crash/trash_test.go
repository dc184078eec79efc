package crash

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// A retention that is configured after a crash keeps only whole entries. An entry whose purge had
// begun is not whole, however much of it remains.
func TestRetentionThatIsSwitchedOnKeepsNoEntryWhosePurgeHadBegun(t *testing.T) {
	disks.RequireRoot(t)
	binary := fixture.Build(t, "failpoint")
	for _, fstype := range disks.Types() {
		disk := disks.New(t, fstype, 0)
		for _, point := range []string{"purge.marked", "purge.data-removed", "purge.released"} {
			t.Run(fstype+" "+point, func(t *testing.T) {
				n := newNode(t, binary, filepath.Join(disk.Dir, point))
				n.Start("CSI_HOSTPATH_FAILPOINT=" + point + ":1")
				id, err := n.create(t.Context(), "v", "DirectoryOrCreate")
				n.Must(err)
				write(t, file(dataPath(n.Path("pool", "volumes", "v")), "DirectoryOrCreate"))
				_ = n.delete(t.Context(), id) // the driver dies during this call or shortly afterwards
				select {
				case <-n.Exited():
				case <-time.After(fixture.Patience()):
					t.Fatal("the driver does not die")
				}
				n.setPool("trashRetention: 1h")
				n.Start()
				n.wantClean(0)
				whole, err := n.create(t.Context(), "whole", "DirectoryOrCreate")
				n.Must(err)
				n.Must(n.delete(t.Context(), whole))
				n.Stop()
				n.Start()
				if kept := n.Entries("pool", "trash"); len(kept) != 1 {
					t.Errorf("trash/ has %q, want the whole volume alone", kept)
				}
			})
		}
	}
}
