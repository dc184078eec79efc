//go:build vm

package quotas

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// A class's limit of inodes holds over a restart, even if somebody has taken it away meanwhile, and kubelet is told of it.
func TestInodesAreLimitedAsTheClassSays(t *testing.T) {
	const inodes = 12
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			w := newWorld(t, guest.Disk(t, fstype), "inodes", "")
			w.start()
			id, err := w.createWith(t.Context(), "few", map[string]string{volume.ParamInodes: strconv.Itoa(inodes)})
			w.must(err)
			w.stop()
			for project := range guest.ProjectQuotas(t, w.disk, firstID) {
				guest.UnlimitInodes(t, w.disk, project)
			}
			w.start()
			target := w.target("few")
			w.must(w.publish(t.Context(), id, target))
			made, err := makeFiles(target, 2*inodes)
			if made != inodes-1 || !isFull(err) {
				t.Errorf("%d files were made in a volume of %d inodes: %v", made, inodes, err)
			}
			u, err := w.stats(t.Context(), id, target, csi.VolumeUsage_INODES)
			w.must(err)
			if u.GetTotal() != inodes || u.GetUsed() != inodes || u.GetAvailable() != 0 {
				t.Errorf("kubelet is told %v, want %d inodes, all of them used", u, inodes)
			}
			var st unix.Statfs_t
			w.must(unix.Statfs(target, &st))
			if st.Files != inodes || st.Ffree != 0 {
				t.Errorf("df shows %d inodes, %d free", st.Files, st.Ffree)
			}
			w.must(w.unpublish(t.Context(), id, target))
			w.must(w.delete(t.Context(), id))
			w.wantNothingLeft()
		})
	}
}

// makeFiles makes empty files as a pod does, and says how many.
func makeFiles(dir string, n int) (made int, err error) {
	err = guest.AsPod(func() error {
		for made < n {
			f, err := os.Create(filepath.Join(dir, strconv.Itoa(made)))
			if err != nil {
				return err
			}
			f.Close()
			made++
		}
		return nil
	})
	return made, err
}
