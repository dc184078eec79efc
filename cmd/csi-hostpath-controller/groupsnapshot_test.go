package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	testcontroller "github.com/csi-hostpath/csi-hostpath/test/controller"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// snapshotUser is the chart's snapshot controller.
const snapshotUser = "system:serviceaccount:default:test-csi-hostpath-snapshots"

// TestGroupSnapshotNeedsOnlyTheRightsOfTheChart has upstream's snapshotter and snapshot controller
// take a group snapshot, with the rights that the chart gives them, through the router.
func TestGroupSnapshotNeedsOnlyTheRightsOfTheChart(t *testing.T) {
	disks.RequireRoot(t)
	server := apiserver.ForTest(t)
	applyChart(t, server, "central", "snapshotter.enabled=true", "snapshotter.groupSnapshots=true",
		"snapshotController.enabled=true", "snapshotController.crds=true")
	g := newGroups(t, server)
	g.create("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshotClass",
		"volumegroupsnapshotclasses", map[string]any{"driver": testcontroller.DriverName, "deletionPolicy": "Delete"})
	g.start("csi-snapshotter", controllerUser, "--csi-address="+g.central.Socket,
		"--extra-create-metadata", "--feature-gates=CSIVolumeGroupSnapshot=true")
	g.start("snapshot-controller", snapshotUser, "--feature-gates=CSIVolumeGroupSnapshot=true")
	for _, name := range []string{"data", "log"} {
		g.claim(name)
	}
	g.create("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshot", "volumegroupsnapshots",
		map[string]any{
			"volumeGroupSnapshotClassName": "g",
			"source": map[string]any{
				"selector": map[string]any{"matchLabels": map[string]any{"group": "g"}},
			},
		})
	fixture.Eventually(t, "both snapshots are ready", func() bool { return g.ready() == 2 },
		func() any { return g.status() })
	if n := g.onDisk(); n != 2 {
		t.Errorf("the node has %d snapshots", n)
	}
	fixture.Must(t, g.objects("groupsnapshot.storage.k8s.io/v1", "volumegroupsnapshots").Delete(
		t.Context(), "g", metav1.DeleteOptions{}))
	fixture.Eventually(t, "both snapshots are deleted", func() bool { return g.onDisk() == 0 },
		func() any { return g.status() })
}

// groups is an API server with a router, the driver of a node, and sidecars.
type groups struct {
	t       *testing.T
	server  *apiserver.Server
	dir     string
	central *testcontroller.Controller
	admin   *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
	driver  *process.Process
}

func newGroups(t *testing.T, server *apiserver.Server) *groups {
	t.Helper()
	g := &groups{
		t: t, server: server, dir: t.TempDir(), central: testcontroller.Start(t, router.Options{}),
	}
	binary, err := process.Build(t.Context(), t.TempDir())
	fixture.Must(t, err)
	g.driver, err = process.StartReady(t.Context(), process.Options{
		Binary: binary, Dir: filepath.Dir(fixture.Socket(t)),
		Pools: map[string]string{"default": filepath.Join(g.dir, "pool")},
		Args:  g.central.Args(process.NodeName),
	})
	fixture.Must(t, err)
	t.Cleanup(func() { fixture.Must(t, g.driver.Stop()) })
	g.central.WaitLinked(process.NodeName)
	g.admin, err = server.Admin()
	fixture.Must(t, err)
	config, err := server.Config("admin", "system:masters")
	fixture.Must(t, err)
	config.ContentType, config.AcceptContentTypes = "", "" // of these kinds only JSON is known
	g.dynamic, err = dynamic.NewForConfig(config)
	fixture.Must(t, err)
	return g
}

// start starts a program of upstream with the rights of a user, until the test ends.
func (g *groups) start(name, user string, args ...string) {
	g.t.Helper()
	kubeconfig, err := g.server.Kubeconfig(user, "system:serviceaccounts")
	fixture.Must(g.t, err)
	log := &process.Log{}
	p, err := process.StartProgram(process.ProgramOptions{
		Binary: g.server.Program(name), Args: append(args, "--kubeconfig="+kubeconfig, "--v=4"), Log: log,
	})
	fixture.Must(g.t, err)
	g.t.Cleanup(func() {
		fixture.Must(g.t, p.Kill())
		if g.t.Failed() {
			g.t.Logf("the log of %s:\n%s", name, log)
		}
	})
}

func (g *groups) objects(version, plural string) dynamic.ResourceInterface {
	g.t.Helper()
	parsed, err := schema.ParseGroupVersion(version)
	fixture.Must(g.t, err)
	objects := g.dynamic.Resource(parsed.WithResource(plural))
	if plural == "volumegroupsnapshotclasses" {
		return objects
	}
	return objects.Namespace(core.NamespaceDefault)
}

// create creates an object called g, as soon as its definition is served.
func (g *groups) create(version, kind, plural string, fields map[string]any) {
	g.t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"spec": fields}}
	if kind == "VolumeGroupSnapshotClass" {
		o.Object = fields
	}
	o.SetAPIVersion(version)
	o.SetKind(kind)
	o.SetName("g")
	var err error
	fixture.Eventually(g.t, "a "+kind+" is created", func() bool {
		_, err = g.objects(version, plural).Create(g.t.Context(), o, metav1.CreateOptions{})
		return err == nil
	}, func() any { return err })
}

// claim creates a volume, and a claim that is bound to it.
func (g *groups) claim(name string) {
	g.t.Helper()
	ctx := g.t.Context()
	var created *csi.CreateVolumeResponse
	created, err := g.driver.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
		CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 20},
		Parameters:    map[string]string{"backing": "image"},
	})
	fixture.Must(g.t, err)
	size := core.ResourceList{core.ResourceStorage: resource.MustParse("1Mi")}
	mode := []core.PersistentVolumeAccessMode{core.ReadWriteOnce}
	claim, err := g.admin.CoreV1().PersistentVolumeClaims(core.NamespaceDefault).Create(ctx,
		&core.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"group": "g"}},
			Spec: core.PersistentVolumeClaimSpec{
				AccessModes: mode, VolumeName: name,
				Resources: core.VolumeResourceRequirements{Requests: size},
			},
		}, metav1.CreateOptions{})
	fixture.Must(g.t, err)
	_, err = g.admin.CoreV1().PersistentVolumes().Create(ctx, &core.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: core.PersistentVolumeSpec{
			Capacity: size, AccessModes: mode,
			ClaimRef: &core.ObjectReference{
				Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: name, UID: claim.UID,
			},
			PersistentVolumeSource: core.PersistentVolumeSource{CSI: &core.CSIPersistentVolumeSource{
				Driver: testcontroller.DriverName, VolumeHandle: created.GetVolume().GetVolumeId(),
			}},
		},
	}, metav1.CreateOptions{})
	fixture.Must(g.t, err)
	claim.Status.Phase = core.ClaimBound
	_, err = g.admin.CoreV1().PersistentVolumeClaims(core.NamespaceDefault).UpdateStatus(ctx, claim,
		metav1.UpdateOptions{})
	fixture.Must(g.t, err)
}

// ready counts the VolumeSnapshots that are ready to use.
func (g *groups) ready() (n int) {
	g.t.Helper()
	list, err := g.objects("snapshot.storage.k8s.io/v1", "volumesnapshots").List(g.t.Context(),
		metav1.ListOptions{})
	fixture.Must(g.t, err)
	for _, o := range list.Items {
		if ready, _, _ := unstructured.NestedBool(o.Object, "status", "readyToUse"); ready {
			n++
		}
	}
	return n
}

// status is what the group snapshot says of itself.
func (g *groups) status() any {
	o, err := g.objects("groupsnapshot.storage.k8s.io/v1", "volumegroupsnapshots").Get(
		context.WithoutCancel(g.t.Context()), "g", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return o.Object["status"]
}

// onDisk counts the snapshots in the node's pool.
func (g *groups) onDisk() int {
	g.t.Helper()
	entries, err := os.ReadDir(filepath.Join(g.dir, "pool", "snapshots"))
	fixture.Must(g.t, err)
	return len(entries)
}
