//go:build vm

package quotas

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

const gitRules = "gitSources: [{urlPrefix: \"https://h/\", maxSize: 1Gi, minPeriod: 1s}]\n"

// gitFiles are so many files of so many bytes.
func gitFiles(n, size int) map[string]string {
	files := make(map[string]string, n)
	for i := range n {
		files[strconv.Itoa(i)] = strings.Repeat("x", size)
	}
	return files
}

// The driver writes the trees, and ext4 lets it write past every quota. The tree of small files
// takes a block for each, which no other limit counts.
func TestContentFromGitIsHeldToItsSize(t *testing.T) {
	const size, old, refused, small = 4 * mib, "a", "b", "c"
	commit := func(digit string) string { return strings.Repeat(digit, 40) }
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, 0, disks.ProjectQuota())
			n := newNode(t, disk.Dir, "git", gitRules)
			f := fixture.NewFetcher(t)
			n.SetArgs("--config", n.config, "--git-fetcher-socket", f.Socket)
			f.Commit(commit(old), gitFiles(10, 256<<10))
			n.Start()
			target := n.target("pod")
			n.Must(os.MkdirAll(filepath.Dir(target), 0o755))
			_, err := n.Node.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
				VolumeId: "csi-pod", TargetPath: target, Readonly: true,
				VolumeCapability: fixture.MountCapability(""),
				VolumeContext: map[string]string{
					volume.ParamSource: "git", volume.ParamURL: "https://h/site",
					volume.ParamSize: strconv.Itoa(size), volume.ParamPeriod: "1s",
					volume.AttrEphemeral: "true", volume.AttrPodUID: "pod",
					volume.AttrPodName: "pod", volume.AttrPodNamespace: "ns",
				},
			})
			n.Must(err)
			shows := func(digit string) bool {
				said, err := os.ReadFile(filepath.Join(target, volume.GitCommitFile))
				return err == nil && string(said) == commit(digit)+"\n"
			}
			f.Commit(commit(refused), gitFiles(1000, 1))
			n.eventually("the tree is refused", func() bool {
				return strings.Contains(n.Log(), "could not be fetched") || shows(refused)
			})
			if entries, err := os.ReadDir(filepath.Join(target, "site")); len(entries) != 10 || !shows(old) {
				t.Errorf("the pod sees %d files, %v, want the old ones", len(entries), err)
			}
			for id, q := range guest.ProjectQuotas(t, disk.Dir, firstID) {
				if q.UsedBytes > size || q.LimitBytes != size {
					t.Errorf("the quota of project %d is %+v, want %d bytes", id, q, size)
				}
			}
			f.Commit(commit(small), gitFiles(1, 1))
			n.eventually("the pod sees a tree that fits", func() bool { return shows(small) })
			n.Must(n.unpublish(t.Context(), "csi-pod", target))
			n.Stop()
		})
	}
}
