package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	driver = "hostpath.csi.local"
	pool   = "bbbbbbbbbbbb"
	// enforcing is a pool that enforces sizes.
	enforcing = "dddddddddddd"
	// provisionedName is a name that external-provisioner gives.
	provisionedName = "pvc-6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7a2f1"
)

// world is an API server with two nodes, a and b, the classes "waits", "releasing", "immediate"
// and "foreign", and a Controller.
type world struct {
	*testing.T
	options Options
	// controller is the one that runs.
	controller *Controller
	client     *fake.Clientset
	dynamic    *dynamicfake.FakeDynamicClient
	recorder   *recorder
}

// recorder keeps events as "Kind namespace/name: Reason: message".
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) Event(o runtime.Object, _, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ref, ok := o.(*corev1.ObjectReference)
	if !ok {
		panic("an event is about no reference")
	}
	r.events = append(r.events, fmt.Sprintf("%s %s/%s: %s: %s", ref.Kind, ref.Namespace, ref.Name,
		reason, message))
}

func (r *recorder) Eventf(o runtime.Object, kind, reason, format string, args ...any) {
	r.Event(o, kind, reason, fmt.Sprintf(format, args...))
}

func (r *recorder) AnnotatedEventf(
	o runtime.Object, _ map[string]string, kind, reason, format string, args ...any,
) {
	r.Eventf(o, kind, reason, format, args...)
}

// with counts the events that have all of the words.
func (r *recorder) with(words ...string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		missing := func(word string) bool { return !strings.Contains(e, word) }
		if !slices.ContainsFunc(words, missing) {
			n++
		}
	}
	return n
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	releasing := classObject("releasing", driver, storagev1.VolumeBindingWaitForFirstConsumer)
	releasing.Annotations = map[string]string{driver + nodeGone: release}
	objects = append(objects, nodeObject("a"), nodeObject("b"),
		classObject("waits", driver, storagev1.VolumeBindingWaitForFirstConsumer),
		releasing, classObject("immediate", driver, storagev1.VolumeBindingImmediate),
		classObject("foreign", "other.example.com", storagev1.VolumeBindingWaitForFirstConsumer))
	var api, snapshots []runtime.Object
	for _, o := range objects {
		if _, ok := o.(*unstructured.Unstructured); ok {
			snapshots = append(snapshots, o)
		} else {
			api = append(api, o)
		}
	}
	w := &world{T: t, client: fake.NewClientset(api...), recorder: &recorder{}}
	w.dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{
			snapshotResource("volumesnapshots"):        "VolumeSnapshotList",
			snapshotResource("volumesnapshotcontents"): "VolumeSnapshotContentList",
		}, snapshots...)
	w.options = Options{
		Client: w.client, Dynamic: w.dynamic, Recorder: w.recorder,
		Component: "csi-hostpath-controller", DriverName: driver,
	}
	return w
}

func snapshotResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: snapshotGroup, Version: "v1", Resource: name}
}

// run runs a Controller while test runs, in time that passes only when nothing else happens.
func (w *world) run(test func()) {
	w.Helper()
	c, err := New(w.options)
	if err != nil {
		w.Fatal(err)
	}
	w.controller = c
	ctx, cancel := context.WithCancel(w.Context())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	time.Sleep(time.Second) // cache.WaitForCacheSync polls
	synctest.Wait()
	test()
	cancel()
	wg.Wait()
	w.checkRemedies()
}

// selected is the node in the annotation of claim "new".
func (w *world) selected() string {
	w.Helper()
	synctest.Wait()
	claims := w.client.CoreV1().PersistentVolumeClaims("ns")
	c, err := claims.Get(w.Context(), "new", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return c.Annotations[kube.SelectedNode]
}

// selectNode does what the scheduler and external-provisioner do. Empty: taken away.
func (w *world) selectNode(node string) {
	w.Helper()
	claims := w.client.CoreV1().PersistentVolumeClaims("ns")
	c, err := claims.Get(w.Context(), "new", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	c.Annotations = map[string]string{}
	if node != "" {
		c.Annotations[kube.SelectedNode] = node
	}
	if _, err := claims.Update(w.Context(), c, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
}

// patches counts the writes to claims.
func (w *world) patches() int {
	n := 0
	for _, a := range w.client.Actions() {
		if a.GetVerb() == "patch" && a.GetResource().Resource == "persistentvolumeclaims" {
			n++
		}
	}
	return n
}

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-of-" + name)}
}

func classObject(name, provisioner string, mode storagev1.VolumeBindingMode,
) *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta: named("", name), Provisioner: provisioner, VolumeBindingMode: &mode,
	}
}

func nodeObject(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: named("", name), Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
}

// volumeObject is a PersistentVolume in the pool, which is on a node.
func volumeObject(name, nodeName string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: named("", name), Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: pool + "-" + name},
		},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: volume.TopologyKey(driver), Operator: corev1.NodeSelectorOpIn,
					Values: []string{volume.TopologyValue(nodeName)},
				}},
			}},
		}},
	}}
}

// claimObject is a claim with a source, or without one if kind is empty.
func claimObject(name, className, kind, sourceName string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: named("ns", name),
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: &className},
	}
	if kind != "" {
		c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: kind, Name: sourceName}
	}
	if group := snapshotGroup; kind == snapshotKind {
		c.Spec.DataSource.APIGroup = &group
	}
	return c
}

// ofClaim gives a volume to a claim: it was made for it, and goes with it.
func ofClaim(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	v.Annotations = map[string]string{provisionedBy: driver}
	v.Finalizers = []string{"kubernetes.io/pv-protection", provisionerFinalizer}
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name, UID: c.UID}
	return v
}

// bound is a claim that has a volume.
func bound(name, volumeName string) *corev1.PersistentVolumeClaim {
	c := claimObject(name, "waits", "", "")
	c.Spec.VolumeName = volumeName
	return c
}

// snapshotObject is the VolumeSnapshot "snap" of claim "source", bound to a content if that has a
// name.
func snapshotObject(content string) *unstructured.Unstructured {
	return object("VolumeSnapshot", "ns", "snap", map[string]any{
		"spec":   map[string]any{"source": map[string]any{"persistentVolumeClaimName": "source"}},
		"status": map[string]any{"boundVolumeSnapshotContentName": content},
	})
}

// contentObject is the VolumeSnapshotContent "content". A handle may be empty.
func contentObject(driverName, snapshotHandle, volumeHandle string) *unstructured.Unstructured {
	return object("VolumeSnapshotContent", "", "content", map[string]any{
		"spec": map[string]any{
			"driver": driverName,
			"source": map[string]any{"volumeHandle": volumeHandle},
		},
		"status": map[string]any{"snapshotHandle": snapshotHandle},
	})
}

func object(kind, namespace, name string, fields map[string]any) *unstructured.Unstructured {
	fields["apiVersion"], fields["kind"] = snapshotGroup+"/v1", kind
	o := &unstructured.Unstructured{Object: fields}
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

// managed is a content with the label of node deployment.
func managed(o *unstructured.Unstructured, node string) *unstructured.Unstructured {
	o.SetLabels(map[string]string{managedBy: node})
	return o
}
