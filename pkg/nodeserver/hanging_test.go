package nodeserver

import (
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/fuse"
)

// Somebody has mounted what does not answer over the staging path.
func TestStagingPathThatHangsIsLeftAlone(t *testing.T) {
	n := newMortalNode(t, "", imageSpec(volume.Ext4))
	fixture.Must(t, n.stage())
	fs := fuse.Mount(t, n.target("staging"))
	defer fs.Die()
	fs.Hang()
	wantCode(t, n.unstage(), codes.FailedPrecondition)
	fs.WantAlive(t)
}

// A pod's directory volume is covered by what does not answer.
func TestTargetOfAPoolsVolumeThatHangsIsUnpublished(t *testing.T) {
	n := newMortalNode(t, "", blockSpec())
	id := n.create(t, "v", volume.Directory)
	fixture.Must(t, n.publish(t, n.publishRequest(id, "a")))
	fs := fuse.Mount(t, n.target("a"))
	defer fs.Die()
	fs.Hang()
	_, err := n.NodeGetVolumeStats(t.Context(),
		&csi.NodeGetVolumeStatsRequest{VolumeId: id.String(), VolumePath: n.target("a")})
	wantCode(t, err, codes.NotFound)
	fixture.Must(t, n.unpublish(t, id, "a"))
	if _, err := os.Lstat(n.target("a")); !os.IsNotExist(err) {
		t.Errorf("the target is still there: %v", err)
	}
	fs.WantAlive(t)
}
