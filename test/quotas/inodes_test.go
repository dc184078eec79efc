//go:build vm

package quotas

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// A class's limit of inodes holds over a restart, even if somebody has taken it away meanwhile, and
// kubelet is told of it.
func TestInodesAreLimitedAsTheClassSays(t *testing.T) {
	const inodes = 12
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			w := newWorld(t, guest.Disk(t, fstype), "inodes", "")
			w.start()
			id, err := w.createWith(t.Context(), "few",
				map[string]string{volume.ParamInodes: strconv.Itoa(inodes)})
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

// A copy has no more files than the class of the new volume lets, and one that is as full as its
// source is no exception.
func TestCloneHasNoMoreInodesThanItsClassSays(t *testing.T) {
	const inodes = 12
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			w := newWorld(t, guest.Disk(t, fstype), "cloned-inodes", "")
			w.start()
			source, err := w.createWith(t.Context(), "source",
				map[string]string{volume.ParamInodes: strconv.Itoa(inodes)})
			w.must(err)
			target := w.target("source")
			w.must(w.publish(t.Context(), source, target))
			if made, err := makeFiles(target, 2*inodes); made != inodes-1 || !isFull(err) {
				t.Errorf("%d files were made in a volume of %d inodes: %v", made, inodes, err)
			}
			w.must(w.unpublish(t.Context(), source, target))
			if id, err := w.clone(
				t.Context(),
				"fewer",
				source,
				inodes-1,
			); status.Code(
				err,
			) != codes.OutOfRange {
				t.Errorf("a clone with an inode less: %q, %v, want OUT_OF_RANGE", id, err)
			}
			clone, err := w.clone(t.Context(), "clone", source, inodes)
			w.must(err)
			target = w.target("clone")
			w.must(w.publish(t.Context(), clone, target))
			u, err := w.stats(t.Context(), clone, target, csi.VolumeUsage_INODES)
			w.must(err)
			if u.GetTotal() != inodes || u.GetUsed() != inodes {
				t.Errorf("kubelet is told %v of the clone, want %d inodes, all of them used", u, inodes)
			}
			w.must(w.unpublish(t.Context(), clone, target))
			w.must(w.delete(t.Context(), clone))
			w.must(w.delete(t.Context(), source))
			w.wantNothingLeft()
		})
	}
}

// clone makes a volume of another one's content, with a limit of inodes.
func (w *world) clone(ctx context.Context, name, source string, inodes int) (string, error) {
	resp, err := w.driver.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: mib},
		Parameters:         map[string]string{volume.ParamInodes: strconv.Itoa(inodes)},
		VolumeCapabilities: []*csi.VolumeCapability{mountCapability()},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source},
		}},
	})
	return resp.GetVolume().GetVolumeId(), err
}
