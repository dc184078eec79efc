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
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// A class's limit of inodes holds over a restart, even if somebody has taken it away meanwhile, and
// kubelet is told of it.
func TestInodesAreLimitedAsTheClassSays(t *testing.T) {
	const inodes = 12
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			n := newNode(t, guest.Disk(t, fstype), "inodes", "")
			n.Start()
			id, err := n.createWith(t.Context(), "few",
				map[string]string{volume.ParamInodes: strconv.Itoa(inodes)})
			n.Must(err)
			n.Stop()
			for project := range guest.ProjectQuotas(t, n.disk, firstID) {
				guest.UnlimitInodes(t, n.disk, project)
			}
			n.Start()
			target := n.target("few")
			n.Must(n.publish(t.Context(), id, target))
			made, err := makeFiles(target, 2*inodes)
			if made != inodes-1 || !isFull(err) {
				t.Errorf("%d files were made in a volume of %d inodes: %v", made, inodes, err)
			}
			u, err := n.stats(t.Context(), id, target, csi.VolumeUsage_INODES)
			n.Must(err)
			if u.GetTotal() != inodes || u.GetUsed() != inodes || u.GetAvailable() != 0 {
				t.Errorf("kubelet is told %v, want %d inodes, all of them used", u, inodes)
			}
			var st unix.Statfs_t
			n.Must(unix.Statfs(target, &st))
			if st.Files != inodes || st.Ffree != 0 {
				t.Errorf("df shows %d inodes, %d free", st.Files, st.Ffree)
			}
			n.Must(n.unpublish(t.Context(), id, target))
			n.Must(n.delete(t.Context(), id))
			n.wantNothingLeft()
		})
	}
}

// A VolumeAttributesClass changes the limit while a pod writes, also after a restart, and gives it
// back to the StorageClass.
func TestInodesAreModifiedWhileAPodWrites(t *testing.T) {
	const inodes, more = 12, 20
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			n := newNode(t, guest.Disk(t, fstype), "modified", "")
			n.Start()
			id, err := n.createWith(t.Context(), "few",
				map[string]string{volume.ParamInodes: strconv.Itoa(inodes)})
			n.Must(err)
			target := n.target("few")
			n.Must(n.publish(t.Context(), id, target))
			modify := func(value string) {
				t.Helper()
				_, err := n.Controller.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
					VolumeId: id, MutableParameters: map[string]string{volume.ParamInodes: value},
				})
				n.Must(err)
			}
			wantTotal := func(want int64) {
				t.Helper()
				u, err := n.stats(t.Context(), id, target, csi.VolumeUsage_INODES)
				n.Must(err)
				if u.GetTotal() != want {
					t.Errorf("kubelet is told %v, want %d inodes", u, want)
				}
			}
			modify(strconv.Itoa(more))
			made, err := makeFiles(target, 2*more)
			if made != more-1 || !isFull(err) {
				t.Errorf("%d files were made in a volume of %d inodes: %v", made, more, err)
			}
			n.Stop()
			n.Start()
			wantTotal(more)
			modify(volume.MutableDefault)
			wantTotal(inodes)
			n.Must(n.unpublish(t.Context(), id, target))
			n.Must(n.delete(t.Context(), id))
			n.wantNothingLeft()
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
			n := newNode(t, guest.Disk(t, fstype), "cloned-inodes", "")
			n.Start()
			source, err := n.createWith(t.Context(), "source",
				map[string]string{volume.ParamInodes: strconv.Itoa(inodes)})
			n.Must(err)
			target := n.target("source")
			n.Must(n.publish(t.Context(), source, target))
			if made, err := makeFiles(target, 2*inodes); made != inodes-1 || !isFull(err) {
				t.Errorf("%d files were made in a volume of %d inodes: %v", made, inodes, err)
			}
			n.Must(n.unpublish(t.Context(), source, target))
			if id, err := n.clone(
				t.Context(),
				"fewer",
				source,
				inodes-1,
			); status.Code(
				err,
			) != codes.OutOfRange {
				t.Errorf("a clone with an inode less: %q, %v, want OUT_OF_RANGE", id, err)
			}
			clone, err := n.clone(t.Context(), "clone", source, inodes)
			n.Must(err)
			target = n.target("clone")
			n.Must(n.publish(t.Context(), clone, target))
			u, err := n.stats(t.Context(), clone, target, csi.VolumeUsage_INODES)
			n.Must(err)
			if u.GetTotal() != inodes || u.GetUsed() != inodes {
				t.Errorf("kubelet is told %v of the clone, want %d inodes, all of them used", u, inodes)
			}
			n.Must(n.unpublish(t.Context(), clone, target))
			n.Must(n.delete(t.Context(), clone))
			n.Must(n.delete(t.Context(), source))
			n.wantNothingLeft()
		})
	}
}

// clone makes a volume of another one's content, with a limit of inodes.
func (n *node) clone(ctx context.Context, name, source string, inodes int) (string, error) {
	resp, err := n.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: mib},
		Parameters:         map[string]string{volume.ParamInodes: strconv.Itoa(inodes)},
		VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source},
		}},
	})
	return resp.GetVolume().GetVolumeId(), err
}
