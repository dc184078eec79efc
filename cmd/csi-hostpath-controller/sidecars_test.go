//nolint:lll // a request is read as it is sent, in one line
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// TestSidecarsWorkWithTheTokenOfThePod runs upstream's sidecars with the rights and the policies of
// the chart, over the life of a volume, its clone and a snapshot.
func TestSidecarsWorkWithTheTokenOfThePod(t *testing.T) {
	disks.RequireRoot(t)
	server := apiserver.ForTest(t, "persistentvolume-binder-controller",
		"persistentvolumeclaim-protection-controller", "persistentvolume-protection-controller")
	applyChart(t, server, "central", "snapshotter.enabled=true", "snapshotController.enabled=true",
		"snapshotController.crds=true")
	c := newClusterOf(t, server, "--ca-secret="+authority, "--ca-configmap="+authority)
	c.startController()
	c.projectCA()
	c.addNode()
	c.putToken(c.pod("driver-1", nodeName, nodeAccount), controllerName)
	c.driver.Start()
	c.waitLinked()
	logs := map[string]*process.Log{}
	for name, args := range map[string][]string{
		"csi-provisioner": {
			"--strict-topology", "--immediate-topology=false", "--extra-create-metadata",
			"--enable-capacity", "--capacity-ownerref-level=-1", "--capacity-poll-interval=1s",
		},
		"csi-resizer":     {"--handle-volume-inuse-error=false"},
		"csi-snapshotter": {"--extra-create-metadata", "--feature-gates=CSIVolumeGroupSnapshot=false"},
	} {
		logs[name] = c.startSidecar(name, args...)
	}

	c.placedClaim("data", "2Mi", nil)
	made := c.waitVolume("data")
	c.resize("data", "4Mi")
	c.placedClaim("copy", "4Mi", &core.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "data"})
	copied := c.waitVolume("copy")
	c.takeSnapshot(made)
	c.waitRoom()
	for _, name := range []string{"copy", "data"} {
		claims := c.client.CoreV1().PersistentVolumeClaims(core.NamespaceDefault)
		fixture.Must(t, claims.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	fixture.Eventually(t, "the volumes are deleted", func() bool {
		left := 0
		for _, v := range []*core.PersistentVolume{made, copied} {
			_, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), v.Name, metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				left++
			}
		}
		return left == 0
	})
	logs["the controller"] = &c.log
	for name, log := range logs {
		for line := range strings.Lines(log.String()) {
			// The provisioner can do without a finalizer on the source of a restore (rbac.yaml).
			if strings.Contains(line, "forbidden") && !strings.Contains(line, "SnapshotFinalizerProtection") {
				t.Errorf("%s lacks a right: %s", name, line)
			}
		}
	}
}

// addNode makes what kubelet makes.
func (c *cluster) addNode() {
	c.t.Helper()
	key := volume.TopologyKey(driverName)
	_, err := c.client.CoreV1().Nodes().Create(c.t.Context(), &core.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{key: nodeName}},
	}, metav1.CreateOptions{})
	fixture.Must(c.t, err)
	_, err = c.client.StorageV1().CSINodes().Create(c.t.Context(), &storage.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName},
		Spec: storage.CSINodeSpec{Drivers: []storage.CSINodeDriver{{
			Name: driverName, NodeID: nodeName, TopologyKeys: []string{key},
		}}},
	}, metav1.CreateOptions{})
	fixture.Must(c.t, err)
}

// startSidecar starts one beside the controller.
func (c *cluster) startSidecar(name string, args ...string) *process.Log {
	c.t.Helper()
	host, err := os.Hostname()
	fixture.Must(c.t, err)
	log := &process.Log{}
	p, err := process.StartProgram(process.ProgramOptions{
		Binary: c.server.Program(name),
		Args: append([]string{
			"--csi-address=" + c.socket(), "--kubeconfig=" + c.kubeconfig, "--v=4", "--leader-election",
			"--leader-election-namespace=default",
		}, args...),
		Env: []string{"NAMESPACE=default", "POD_NAME=" + host},
		Log: log,
	})
	fixture.Must(c.t, err)
	c.t.Cleanup(func() {
		fixture.Must(c.t, p.Kill())
		if c.t.Failed() {
			c.t.Logf("the log of %s:\n%s", name, log.String())
		}
	})
	return log
}

// placedClaim makes a claim for which the scheduler has chosen the node.
func (c *cluster) placedClaim(name, size string, source *core.TypedLocalObjectReference) {
	c.t.Helper()
	class := "csi-hostpath"
	_, err := c.client.CoreV1().PersistentVolumeClaims(core.NamespaceDefault).Create(c.t.Context(),
		&core.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Annotations: map[string]string{selectedNode: nodeName},
			},
			Spec: core.PersistentVolumeClaimSpec{
				AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
				Resources: core.VolumeResourceRequirements{
					Requests: core.ResourceList{core.ResourceStorage: resource.MustParse(size)},
				},
				StorageClassName: &class,
				DataSource:       source,
			},
		}, metav1.CreateOptions{})
	fixture.Must(c.t, err)
}

// waitVolume waits until the claim is bound, and returns its volume.
func (c *cluster) waitVolume(name string) (v *core.PersistentVolume) {
	c.t.Helper()
	fixture.Eventually(c.t, "claim "+name+" is bound", func() bool {
		claim, err := c.client.CoreV1().PersistentVolumeClaims(core.NamespaceDefault).Get(c.t.Context(),
			name, metav1.GetOptions{})
		fixture.Must(c.t, err)
		if claim.Status.Phase != core.ClaimBound {
			return false
		}
		v, err = c.client.CoreV1().PersistentVolumes().Get(c.t.Context(), claim.Spec.VolumeName,
			metav1.GetOptions{})
		return err == nil
	})
	return v
}

// resize raises a claim, and waits until it has grown.
func (c *cluster) resize(name, size string) {
	c.t.Helper()
	claims := c.client.CoreV1().PersistentVolumeClaims(core.NamespaceDefault)
	_, err := claims.Patch(c.t.Context(), name, types.MergePatchType,
		[]byte(`{"spec": {"resources": {"requests": {"storage": "`+size+`"}}}}`), metav1.PatchOptions{})
	fixture.Must(c.t, err)
	fixture.Eventually(c.t, "claim "+name+" has grown", func() bool {
		claim, err := claims.Get(c.t.Context(), name, metav1.GetOptions{})
		fixture.Must(c.t, err)
		return claim.Status.Capacity.Storage().Cmp(resource.MustParse(size)) == 0
	})
}

// takeSnapshot does what the snapshot controller does, and waits until the snapshot is ready, and
// then until it is deleted.
func (c *cluster) takeSnapshot(v *core.PersistentVolume) {
	c.t.Helper()
	client := c.client.CoreV1().RESTClient()
	content := fixture.Merged(c.t, newContent("snap", driverName),
		`{"metadata": {"finalizers": ["snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"]},
		"spec": {"volumeSnapshotClassName": "c", "volumeSnapshotRef": {"uid": "`+claimUID+`"},
			"source": {"volumeHandle": "`+v.Spec.CSI.VolumeHandle+`"}}}`)
	(&policed{t: c.t, admin: c.client}).create("/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses",
		`{"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": {"name": "c"},
		"driver": "hostpath.csi.local", "deletionPolicy": "Delete"}`)
	fixture.Must(c.t, send(c.t, client, try{method: http.MethodPost, path: contents, body: content}))
	read := func() (ready, gone bool) {
		text, err := client.Get().AbsPath(contents + "/snap").Do(c.t.Context()).Raw()
		if apierrors.IsNotFound(err) {
			return false, true
		}
		fixture.Must(c.t, err)
		var o struct{ Status struct{ ReadyToUse bool } }
		fixture.Must(c.t, json.Unmarshal(text, &o))
		return o.Status.ReadyToUse, false
	}
	fixture.Eventually(c.t, "the snapshot is ready", func() bool { ready, _ := read(); return ready })
	fixture.Must(c.t, send(c.t, client, try{
		method: http.MethodPatch, path: contents + "/snap",
		body: `{"metadata": {"annotations": {"snapshot.storage.kubernetes.io/volumesnapshot-being-deleted": "yes"}}}`,
	}))
	fixture.Must(c.t, send(c.t, client, try{method: http.MethodDelete, path: contents + "/snap", body: "{}"}))
	fixture.Eventually(c.t, "the snapshot is deleted", func() bool { _, gone := read(); return gone })
}

// waitRoom waits until the provisioner has said what room there is.
func (c *cluster) waitRoom() {
	c.t.Helper()
	fixture.Eventually(c.t, "the room of the node is known", func() bool {
		list, err := c.client.StorageV1().CSIStorageCapacities(core.NamespaceDefault).List(c.t.Context(),
			metav1.ListOptions{})
		fixture.Must(c.t, err)
		return len(list.Items) > 0
	})
}
