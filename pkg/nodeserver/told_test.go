package nodeserver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// podTarget is where kubelet publishes a volume of a claim.
func podTarget(t *testing.T, n *node, uid string) (pod string) {
	t.Helper()
	pod = "pods/" + uid + "/volumes/kubernetes.io~csi/pvc-1/mount"
	fixture.Must(t, os.MkdirAll(filepath.Dir(n.target(pod)), 0o750))
	return pod
}

func TestPodsOfAVolumeAreThoseThatKubeletNames(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	target := podTarget(t, n, liveUID)
	req := n.publishRequest(id, target)
	req.VolumeContext = map[string]string{
		volume.AttrPodUID: liveUID, volume.AttrPodNamespace: "ns", volume.AttrPodName: "web-0",
	}
	fixture.Must(t, n.publish(t, req))
	// Without podInfoOnMount the attributes are the user's.
	forged := n.publishRequest(id, podTarget(t, n, deadUID))
	forged.VolumeContext = req.GetVolumeContext()
	fixture.Must(t, n.publish(t, forged))
	want := []status.Pod{{UID: liveUID, Namespace: "ns", Name: "web-0"}, {UID: deadUID}}
	if got := n.Publications.Pods(id.String(), 2); len(got) != 2 || got[0] != want[0] ||
		got[1] != want[1] {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := n.Publications.Pods(id.String(), 1); len(got) != 1 {
		t.Errorf("%+v, want one", got)
	}
	fixture.Must(t, n.unpublish(t, id, target))
	if got := n.Publications.Pods(id.String(), 2); len(got) != 1 || got[0] != want[1] {
		t.Errorf("%+v, want %+v", got, want[1:])
	}
}

func TestUseIsKeptOfVolumesThatArePublishedAndCounted(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	n.stageAndPublish("a")
	id := n.id.String()
	ask := func(handle string) {
		t.Helper()
		_, err := n.NodeGetVolumeStats(t.Context(),
			&csi.NodeGetVolumeStatsRequest{VolumeId: handle, VolumePath: n.target("a")})
		fixture.Must(t, err)
	}
	if use := n.Publications.Use(id); use != nil {
		t.Errorf("before kubelet has asked: %+v", use)
	}
	ask(id)
	ask(id)
	if use := n.Publications.Use(id); len(use) == 0 || len(use) > 2 || use[0].Bytes <= 0 {
		t.Errorf("after kubelet has asked: %+v", use)
	}
	n.takeDown("a")
	if use := n.Publications.Use(id); use != nil {
		t.Errorf("after it was unpublished: %+v", use)
	}
	// Nobody counts what a directory holds on a filesystem without quotas.
	plain := n.create(t, "plain", volume.DirectoryOrCreate)
	fixture.Must(t, n.publish(t, n.publishRequest(plain, "a")))
	ask(plain.String())
	if use := n.Publications.Use(plain.String()); use != nil {
		t.Errorf("the use of a filesystem is taken for that of a volume: %+v", use)
	}
	fixture.Must(t, n.unpublish(t, plain, "a"))
}
