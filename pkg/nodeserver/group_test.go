package nodeserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// publishTo publishes the image for a pod with an fsGroup.
func (n *imageNode) publishTo(ctx context.Context, group, pod string) error {
	req := n.publishRequest(n.id, pod)
	req.StagingTargetPath = n.stagingPath()
	req.GetVolumeCapability().GetMount().VolumeMountGroup = group
	_, err := n.NodePublishVolume(ctx, req)
	return err
}

func groupOf(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	fixture.Must(t, unix.Stat(path, &st))
	return st.Gid
}

// The image's filesystem has its own root, and the change of its group holds the filesystem until
// it has ended.
func TestContentOfAnImageGetsTheGroupOfTheNextPodAndIsUnstagedMeanwhile(t *testing.T) {
	onEachFilesystem(t, func(n *imageNode) {
		fixture.Must(n.t, n.stage())
		fixture.Must(n.t, n.publishTo(n.t.Context(), "1000", "one"))
		for i := range 200 {
			fixture.Must(n.t, os.WriteFile(filepath.Join(n.target("one"), strconv.Itoa(i)), nil, 0o600))
		}
		gone, cancel := context.WithCancel(n.t.Context())
		cancel()
		for range 3 { // each may find more or less done
			if err := n.publishTo(gone, "2000", "two"); err != nil && !errors.Is(err, volume.ErrBusy) {
				n.t.Error(err)
			}
		}
		n.takeDown("one", "two")
		n.wantDetached(n.id)
		fixture.Must(n.t, n.stage())
		fixture.Must(n.t, n.publishTo(n.t.Context(), "2000", "two"))
		for i := range 200 {
			if got := groupOf(n.t, filepath.Join(n.target("two"), strconv.Itoa(i))); got != 2000 {
				n.t.Fatalf("file %d has group %d, want 2000", i, got)
			}
		}
		n.takeDown("two")
	})
}
