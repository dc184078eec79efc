package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

var testNow = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

const gib = 1 << 30

// testCluster is a cluster with one node, and claims in two namespaces.
type testCluster struct {
	client  *fake.Clientset
	dynamic *dynamicfake.FakeDynamicClient
	// answers are what the status API says, by resource.
	answers map[string]any
	// byNode are the answers of the driver of each node, in node deployment.
	byNode  map[string]map[string]any
	denied  bool // port-forward
	execs   []string
	mu      sync.Mutex
	asked   []string // resources of the status API
	execOut string
	execErr error
}

func metaOf(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(testNow.Add(-2 * time.Hour)),
	}
}

func claimOf(namespace, name, pv string) *core.PersistentVolumeClaim {
	class := "csi-hostpath"
	size := core.ResourceList{core.ResourceStorage: resource.MustParse("1Gi")}
	return &core.PersistentVolumeClaim{
		ObjectMeta: metaOf(namespace, name),
		Spec: core.PersistentVolumeClaimSpec{
			StorageClassName: &class, VolumeName: pv,
			Resources: core.VolumeResourceRequirements{Requests: size},
		},
		Status: core.PersistentVolumeClaimStatus{Phase: core.ClaimBound, Capacity: size},
	}
}

func volumeObject(pv string) *core.PersistentVolume {
	return &core.PersistentVolume{
		ObjectMeta: metaOf("", pv),
		Spec: core.PersistentVolumeSpec{
			NodeAffinity: affinityOf(volume.Topology(objects.DefaultDriver, "node-a")),
			PersistentVolumeSource: core.PersistentVolumeSource{CSI: &core.CSIPersistentVolumeSource{
				Driver: objects.DefaultDriver, VolumeHandle: "7a3baca9c553-" + pv,
			}},
		},
		Status: core.PersistentVolumeStatus{Phase: core.VolumeBound},
	}
}

// podTemplate is a pod of the driver or of the controller.
func podTemplate(container string, args ...string) core.PodSpec {
	return core.PodSpec{NodeName: "node-a", Containers: []core.Container{{
		Name: container, Image: "r/csi-hostpath:1", Args: args,
	}}}
}

func runningPod(name string, labels map[string]string, spec core.PodSpec) *core.Pod {
	meta := metaOf(objects.DefaultNamespace, name)
	meta.Labels = labels
	return &core.Pod{ObjectMeta: meta, Spec: spec, Status: core.PodStatus{
		Phase:      core.PodRunning,
		Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}},
		ContainerStatuses: []core.ContainerStatus{{
			Name:  spec.Containers[0].Name,
			State: core.ContainerState{Running: &core.ContainerStateRunning{}},
		}},
	}}
}

func newTestCluster(t *testing.T) *testCluster {
	t.Helper()
	driverLabels := map[string]string{
		"app.kubernetes.io/name": "csi-hostpath", "app.kubernetes.io/instance": "csi-hostpath",
	}
	controllerLabels := map[string]string{
		"app.kubernetes.io/instance": "csi-hostpath", "app.kubernetes.io/component": "controller",
	}
	driverSpec := podTemplate("driver", "--driver-name="+objects.DefaultDriver,
		"--controller-address=c:1", "--endpoint=unix:///p/csi.sock")
	controllerSpec := podTemplate("controller", "--status-address=127.0.0.1:9815")
	set := &apps.DaemonSet{ObjectMeta: metaOf(objects.DefaultNamespace, "csi-hostpath")}
	set.Labels = driverLabels
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: driverLabels}
	set.Spec.Template.Spec = driverSpec
	deployment := &apps.Deployment{
		ObjectMeta: metaOf(objects.DefaultNamespace, "csi-hostpath-controller"),
	}
	deployment.Labels = controllerLabels
	deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: controllerLabels}
	deployment.Spec.Template.Spec = controllerSpec
	deployment.Status.ReadyReplicas = 1
	reader := &core.Pod{
		ObjectMeta: metaOf("shop", "reader"),
		Spec: core.PodSpec{Volumes: []core.Volume{{VolumeSource: core.VolumeSource{
			PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: "books"},
		}}}},
	}
	reader.UID = "uid-of-reader"
	c := &testCluster{
		client: fake.NewClientset(set, deployment,
			runningPod("csi-hostpath-a", driverLabels, driverSpec),
			runningPod("csi-hostpath-controller-a", controllerLabels, controllerSpec),
			claimOf("shop", "books", "pvc-1"), claimOf("bank", "ledger", "pvc-2"), volumeObject("pvc-1"),
			volumeObject("pvc-2"), reader,
			&storage.StorageClass{
				ObjectMeta: metaOf("", "csi-hostpath"), Provisioner: objects.DefaultDriver,
			}),
		answers: answersOf(),
	}
	c.dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{
			snapshotResource("volumesnapshots"):        "VolumeSnapshotList",
			snapshotResource("volumesnapshotcontents"): "VolumeSnapshotContentList",
			snapshotResource("volumesnapshotclasses"):  "VolumeSnapshotClassList",
		}, snapshotObjects()...)
	c.allow("*")
	c.client.PrependReactor("create", "*", dryRun)
	return c
}

// dryRun answers requests that change nothing: the fake would make the objects.
func dryRun(a k8stesting.Action) (bool, runtime.Object, error) {
	create, ok := a.(k8stesting.CreateActionImpl)
	if !ok || len(create.CreateOptions.DryRun) == 0 {
		return false, nil, nil
	}
	return true, create.Object, nil
}

func snapshotResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: name}
}

func snapshotObjects() []runtime.Object {
	created := testNow.Add(-time.Hour).Format(time.RFC3339)
	return []runtime.Object{
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
			"metadata": map[string]any{
				"namespace": "shop", "name": "evening", "creationTimestamp": created,
			},
			"spec": map[string]any{"source": map[string]any{"persistentVolumeClaimName": "books"}},
			"status": map[string]any{
				"readyToUse": true, "restoreSize": "1Gi", "boundVolumeSnapshotContentName": "content-1",
			},
		}},
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
			"metadata": map[string]any{"name": "content-1"},
			"spec":     map[string]any{"driver": objects.DefaultDriver},
			"status":   map[string]any{"snapshotHandle": "7a3baca9c553-s-1"},
		}},
	}
}

func answersOf() map[string]any {
	used, growth := int64(256<<20), int64(1<<20)
	return map[string]any{
		"pools": []status.Pool{
			{
				Node: "node-a", Name: "default", ID: "7a3baca9c553", Ready: true, Filesystem: "xfs",
				EnforcesSizes: true, SizeBytes: 10 * gib, UsedBytes: gib, AvailableBytes: 8 * gib, Volumes: 2,
				GrowthBytesPerDay: &growth,
			},
			{Node: "node-b", Name: "default", Reason: "not_mounted"},
		},
		"volumes": []status.Volume{
			{
				ID: "7a3baca9c553-pvc-1", Name: "pvc-1", Node: "node-a", Pool: "default",
				Kind:          status.Directory,
				CapacityBytes: gib, UsedBytes: &used, GrowthBytesPerDay: &growth,
				Claim: &status.ObjectName{Namespace: "shop", Name: "books"},
			},
			{ID: "7a3baca9c553-pvc-2", Name: "pvc-2", Node: "node-a", Pool: "default"},
		},
		"snapshots": []status.Snapshot{{
			ID: "7a3baca9c553-s-1", Node: "node-a", Pool: "default", HeldBytes: 5 << 20,
		}},
		"nodes": []status.Node{{Name: "node-a", Linked: true}},
		"trash": []status.TrashEntry{
			{
				Node: "node-a", Pool: "default", Entry: "pvc-3.0000000a", ID: "7a3baca9c553-pvc-3",
				Claim:         &status.ObjectName{Namespace: "shop", Name: "old"},
				PromisedBytes: gib, Deleted: testNow.Add(-time.Hour), LeftSeconds: 7200,
				CapacityBytes: gib / 2, IsBlock: true, PersistentVolume: "pv-of-old",
				State: status.Retained, PurgedAfter: testNow.Add(2 * time.Hour),
			},
			{
				Node: "node-a", Pool: "default", Entry: "pvc-4.0000000b",
				Claim:         &status.ObjectName{Namespace: "bank", Name: "gone"},
				PromisedBytes: gib, Deleted: testNow.Add(-time.Hour), State: status.Purging,
				PurgedAfter: testNow,
			},
		},
	}
}

// allow lets the user list the claims of these namespaces; "*" is all.
func (c *testCluster) allow(namespaces ...string) {
	c.client.PrependReactor("create", "selfsubjectaccessreviews",
		func(a k8stesting.Action) (bool, runtime.Object, error) {
			create, _ := a.(k8stesting.CreateAction)
			review, _ := create.GetObject().(*authorization.SelfSubjectAccessReview)
			of := review.Spec.ResourceAttributes.Namespace
			for _, n := range namespaces {
				review.Status.Allowed = review.Status.Allowed || n == "*" || n == of
			}
			return true, review, nil
		})
}

// forbid refuses lists of a kind, in all namespaces at once or at all.
func (c *testCluster) forbid(kind string) {
	c.client.PrependReactor("list", kind, func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: kind}, "",
			errors.New("no"))
	})
}

// ServeHTTP is the status API.
func (c *testCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answers, path := c.answers, r.URL.Path
	if c.byNode != nil {
		node, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		answers, path = c.byNode[node], "/"+rest
	}
	asked := strings.TrimPrefix(path, status.Path)
	c.mu.Lock()
	c.asked = append(c.asked, asked)
	c.mu.Unlock()
	if id, ok := strings.CutPrefix(asked, "volumes/"); ok {
		serveVolume(w, answers, id)
		return
	}
	items, ok := answers[asked]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	namespace := r.URL.Query().Get(status.ParamNamespace)
	if volumes, ok := items.([]status.Volume); ok && namespace != "" {
		items = slices.DeleteFunc(slices.Clone(volumes), func(v status.Volume) bool {
			return v.Claim == nil || v.Claim.Namespace != namespace
		})
	}
	text, err := json.Marshal(map[string]any{"items": items})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(text)
}

func serveVolume(w http.ResponseWriter, answers map[string]any, id string) {
	volumes, _ := answers["volumes"].([]status.Volume)
	i := slices.IndexFunc(volumes, func(v status.Volume) bool { return v.ID == id })
	var answer any = status.Error{Error: "node node-a: not found: volume " + id}
	if i < 0 {
		w.WriteHeader(http.StatusNotFound)
	} else {
		answer = volumes[i]
	}
	text, err := json.Marshal(answer)
	if err == nil {
		_, _ = w.Write(text)
	}
}

// run runs the plugin in the namespace shop.
func (c *testCluster) run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	server := httptest.NewServer(c)
	defer server.Close()
	var out, errs strings.Builder
	p := &plugin{
		Streams: Streams{Out: &out, Err: &errs}, kube: genericclioptions.NewConfigFlags(true),
		now: func() time.Time { return testNow },
		connect: func() (*objects.Reader, reach.Pods, error) {
			return &objects.Reader{Client: c.client, Dynamic: c.dynamic}, reach.Pods{Client: c.client}, nil
		},
		statusOf: func(_ reach.Pods, at target) (reach.API, func() error, error) {
			if c.denied {
				return reach.API{}, nil, errors.New("pods is forbidden")
			}
			base := server.URL
			if c.byNode != nil {
				base += "/" + at.node
			}
			return reach.API{Client: server.Client(), Base: base}, func() error { return nil }, nil
		},
		execIn: func(
			_ context.Context, _ reach.Pods, pod *core.Pod, container string, command ...string,
		) (string, error) {
			c.execs = append(c.execs, pod.Name+" "+container+" "+strings.Join(command, " "))
			return c.execOut, c.execErr
		},
	}
	root := p.root()
	root.SetArgs(append(args, "--namespace=shop"))
	err = root.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

func TestCommandsPrintTables(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string
	}{
		{"pools", `
NODE     POOL      STATUS        SIZE        USED        USE         AVAILABLE   VOLUMES   ENFORCED
node-a   default   Ready         10Gi        1Gi         10%         8Gi         2         yes
node-b   default   not_mounted   <unknown>   <unknown>   <unknown>   <unknown>   0         no
`},
		{"pools -o name", "\npool/node-a/default\npool/node-b/default\n"},
		{"volumes", `
CLAIM   STATUS   SIZE   USED    USE   NODE     POOL      CLASS          PODS     AGE
books   Bound    1Gi    256Mi   25%   node-a   default   csi-hostpath   reader   120m
`},
		{"volumes -A -o name", "\npersistentvolumeclaim/ledger\npersistentvolumeclaim/books\n"},
		{"snapshots", `
SNAPSHOT   READY   CLAIM   RESTORE SIZE   HELD   NODE     POOL      AGE
evening    yes     books   1Gi            5Mi    node-a   default   60m
`},
		{"trash", `
ENTRY            CLAIM       SIZE   NODE     POOL      DELETED   LEFT     STATE
pvc-4.0000000b   bank/gone   1Gi    node-a   default   60m       <none>   purging
pvc-3.0000000a   shop/old    1Gi    node-a   default   60m       120m     retained
`},
		{"top --sample=0", `
CLAIM   USED    SIZE   USE   INODES      GROWTH/DAY   WRITES      NODE     PODS
books   256Mi   1Gi    25%   <unknown>   1Mi          <unknown>   node-a   reader
`},
	} {
		out, errs, err := newTestCluster(t).run(t, strings.Fields(tc.args)...)
		if err != nil || errs != "" || out != strings.TrimPrefix(tc.want, "\n") {
			t.Errorf("%s: %v, %q\n%s\nwant:\n%s", tc.args, err, errs, out, tc.want)
		}
	}
}

func TestContentOfGitIsShownOfVisiblePods(t *testing.T) {
	content := func(digit, node string, pods ...status.Pod) status.Volume {
		return status.Volume{
			ID: "7a3baca9c553-git-" + digit, Node: node, Pool: "default", Kind: status.GitTree,
			CapacityBytes: gib, Pods: pods, Inline: true,
			Git: &status.Git{URL: "https://git.example.com/site", Ref: "main"},
		}
	}
	reader := status.Pod{UID: "uid-of-reader", Namespace: "shop", Name: "reader"}
	hidden := status.Pod{UID: "other", Namespace: "bank", Name: "ledger"}
	shown := content("1", "node-a", reader, hidden)
	shown.Git.Commit, shown.Git.Fetched = strings.Repeat("3f5a", 10), testNow.Add(-time.Minute)
	shown.Faults = []string{string(volume.FaultGitStale)}
	for args, want := range map[string]string{
		"git": `
REPOSITORY                     REF    COMMIT         FETCHED   NODE     PODS     FAULTS
https://git.example.com/site   main   3f5a3f5a3f5a   60s       node-a   reader   git_stale
`,
		"git -A": `
REPOSITORY                     REF    COMMIT         FETCHED     NODE     PODS          FAULTS
https://git.example.com/site   main   3f5a3f5a3f5a   60s         node-a   shop/reader   git_stale
https://git.example.com/site   main   <none>         <unknown>   node-b   <none>        <none>
`,
		"git -o name": "\ngitcontent/7a3baca9c553-git-1\n",
	} {
		c := newTestCluster(t)
		volumes, _ := c.answers["volumes"].([]status.Volume)
		c.answers["volumes"] = append(volumes, content("2", "node-b", hidden), shown)
		out, errs, err := c.run(t, strings.Fields(args)...)
		if err != nil || errs != "" || out != strings.TrimPrefix(want, "\n") {
			t.Errorf("%s: %v, %q\n%s\nwant:\n%s", args, err, errs, out, want)
		}
	}
}

func TestClaimWithContentOfGitSaysOfWhichRepository(t *testing.T) {
	c := newTestCluster(t)
	pv := volumeObject("pvc-5")
	pv.Spec.CSI.VolumeHandle, pv.Spec.NodeAffinity = "host-0123456789ab-pvc-5", nil
	pv.Spec.CSI.VolumeAttributes = map[string]string{
		"source": "git", "url": "ssh://deploy@git.example.com/site", "size": "1Gi",
	}
	for _, object := range []runtime.Object{pv, claimOf("shop", "site", "pvc-5")} {
		if err := c.client.Tracker().Add(object); err != nil {
			t.Fatal(err)
		}
	}
	out, errs, err := c.run(t, "volumes", "site", "-o", "wide")
	if err != nil || errs != "" || !regexp.MustCompile(`(?m)^site .* git `).MatchString(out) {
		t.Errorf("%v, %q\n%s", err, errs, out)
	}
	out, _, err = c.run(t, "volumes", "site", "-o", "json")
	if err != nil || !strings.Contains(out, `"repository": "ssh://git.example.com/site"`) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestJSONHasTheClaimAndWhatTheDriverSays(t *testing.T) {
	out, _, err := newTestCluster(t).run(t, "volumes", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Kind  string
		Items []Volume
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	if list.Kind != "VolumeList" || len(list.Items) != 1 || list.Items[0].Claim != "books" ||
		list.Items[0].Data.Pool != "default" || list.Items[0].ID != "7a3baca9c553-pvc-1" {
		t.Errorf("%s", out)
	}
}

// A volume that was taken back may have another claim than the one that it was made for.
func TestVolumeOfAnotherClaimThanItsRecordSaysIsFound(t *testing.T) {
	c := newTestCluster(t)
	volumes, _ := c.answers["volumes"].([]status.Volume)
	volumes[0].Claim.Namespace = "elsewhere"
	out, errs, err := c.run(t, "volumes")
	if err != nil || errs != "" || !strings.Contains(out, "256Mi   25%   node-a   default") {
		t.Errorf("%v, %q\n%s", err, errs, out)
	}
	if want := []string{"volumes", "volumes/7a3baca9c553-pvc-1"}; !slices.Equal(c.asked, want) {
		t.Errorf("%q were asked, want %q", c.asked, want)
	}
}

// A volume that the driver does not know, and claims without data, do not make the command read the
// volumes of the whole fleet.
func TestVolumesThatTheDriverDoesNotKnowAreAskedForOneByOne(t *testing.T) {
	c := newTestCluster(t)
	c.answers["volumes"] = []status.Volume{}
	const extra = 10
	for i := range maxAskedVolumes + extra - 1 {
		name := fmt.Sprintf("extra-%03d", i)
		for _, o := range []runtime.Object{claimOf("shop", name, name), volumeObject(name)} {
			if err := c.client.Tracker().Add(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, errs, err := c.run(t, "volumes")
	lists := 0
	for _, asked := range c.asked {
		if asked == "volumes" {
			lists++
		}
	}
	if err != nil || lists != 1 || len(c.asked) != 1+maxAskedVolumes ||
		!strings.Contains(errs, "Not shown: use of 10 further volumes") {
		t.Errorf("%v, %q, %d lists in %d requests", err, errs, lists, len(c.asked))
	}
}

// Who may see nothing of the driver still sees their claims, and is told what is missing.
func TestWhatTheUserMayNotSeeIsSaidInALine(t *testing.T) {
	c := newTestCluster(t)
	c.denied = true
	c.forbid("persistentvolumes")
	out, errs, err := c.run(t, "volumes")
	if err != nil || !strings.Contains(out, "books") ||
		!strings.Contains(errs, "Not shown: persistentvolumes of the cluster: you may not list them\n") ||
		!strings.Contains(errs, "you may not port-forward to pods of namespace csi-hostpath\n") {
		t.Errorf("%v, %q\n%s", err, errs, out)
	}
	c.forbid("daemonsets")
	if _, _, err := c.run(t, "pools"); !errors.Is(err, errNotVisible) {
		t.Errorf("pools: %v", err)
	}
	c.forbid("persistentvolumeclaims")
	out, errs, err = c.run(t, "volumes", "-A")
	if err != nil || out != "" || !strings.Contains(errs, "persistentvolumeclaims of all namespaces") {
		t.Errorf("%v, %q, %q", err, out, errs)
	}
}

func TestTrashHidesClaimsOfOtherNamespaces(t *testing.T) {
	c := newTestCluster(t)
	c.allow("shop")
	out, errs, err := c.run(t, "trash")
	if err != nil || strings.Contains(out, "bank") || !strings.Contains(out, "shop/old") ||
		!strings.Contains(errs, "1 entries of namespaces whose persistentvolumeclaims you may not list") {
		t.Errorf("%v, %q\n%s", err, errs, out)
	}
}

const undeletedAnswer = `{"id":"7a3baca9c553-pvc-3","pool":"default","capacityBytes":1073741824,
	"topology":{"topology.hostpath.csi.local/node":"node-a"},"persistentVolume":"pvc-3",
	"claim":{"namespace":"shop","name":"old"}}`

func TestUndeleteMakesThePersistentVolumeAndTheClaim(t *testing.T) {
	c := newTestCluster(t)
	c.execOut = undeletedAnswer
	out, errs, err := c.run(t, "undelete", "shop/old", "--claim", "old")
	if err != nil || !strings.Contains(errs, "Volume 7a3baca9c553-pvc-3 is back on node node-a") ||
		!strings.Contains(out, "persistentvolumeclaim/old created in namespace shop") {
		t.Fatalf("%v, %q, %q", err, errs, out)
	}
	want := "csi-hostpath-a driver csi-hostpath undelete --endpoint=unix:///p/csi.sock " +
		"--output=json --pool=default -- pvc-3.0000000a"
	if len(c.execs) != 1 || c.execs[0] != want {
		t.Errorf("it ran %q, want %q", c.execs, want)
	}
	pv, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-3", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pv.Spec.CSI.VolumeHandle != "7a3baca9c553-pvc-3" || pv.Spec.ClaimRef.Name != "old" ||
		pv.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimRetain ||
		pv.Spec.StorageClassName != "csi-hostpath" ||
		pv.Annotations[provisionedBy] != objects.DefaultDriver {
		t.Errorf("the PersistentVolume is %+v", pv)
	}
	claim, err := c.client.CoreV1().PersistentVolumeClaims(pv.Spec.ClaimRef.Namespace).
		Get(t.Context(), "old", metav1.GetOptions{})
	if err != nil || claim.Annotations[provisioner] != objects.DefaultDriver {
		t.Errorf("%v, the claim is %+v", err, claim)
	}
}

func TestUndeleteWithDryRunOnlySaysWhatItWouldDo(t *testing.T) {
	c := newTestCluster(t)
	out, _, err := c.run(t, "undelete", "pvc-3", "--dry-run")
	if err != nil || len(c.execs) != 0 || !strings.Contains(out, "volumeHandle: 7a3baca9c553-pvc-3") ||
		!strings.Contains(out, "kind: PersistentVolumeClaim") || strings.Contains(out, "status") ||
		!strings.Contains(out, "volumeMode: Block") || !strings.Contains(out, "storage: 512Mi") ||
		!strings.Contains(out, "name: pv-of-old") {
		t.Errorf("%v, %q\n%s", err, c.execs, out)
	}
}

// Without the status API, an entry that is named in full on its node can be taken back.
func TestUndeleteNeedsNoStatusAPIForAnEntryOfANode(t *testing.T) {
	c := newTestCluster(t)
	c.execOut, c.denied = undeletedAnswer, true
	args := []string{"undelete", "pvc-3.0000000a", "--claim", "old", "--node", "node-a"}
	var sizes []int64
	c.client.PrependReactor("create", "persistentvolumes",
		func(a k8stesting.Action) (bool, runtime.Object, error) {
			create, _ := a.(k8stesting.CreateAction)
			pv, _ := create.GetObject().(*core.PersistentVolume)
			sizes = append(sizes, pv.Spec.Capacity.Storage().Value())
			return false, nil, nil
		})
	if _, _, err := c.run(t, append(args, "--dry-run")...); err == nil || len(c.execs) != 0 {
		t.Errorf("%v, %q", err, c.execs)
	}
	out, _, err := c.run(t, args...)
	if err != nil || !strings.Contains(out, "persistentvolumeclaim/old created") ||
		len(c.execs) != 1 {
		t.Errorf("%v, %q, %q", err, out, c.execs)
	}
	// The API server refuses a size of 0 also in a dry run.
	if len(sizes) != 3 || sizes[0] <= 0 || sizes[2] != gib {
		t.Errorf("the sizes were %v", sizes)
	}
}

func TestUndeleteDoesNothingIfTheObjectsWouldBeRefused(t *testing.T) {
	c := newTestCluster(t)
	c.client.PrependReactor("create", "persistentvolumes",
		func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("denied") })
	_, _, err := c.run(t, "undelete", "pvc-3", "--claim", "bank/again")
	if err == nil || !strings.Contains(err.Error(), "nothing was done: denied") || len(c.execs) != 0 {
		t.Errorf("%v, %q", err, c.execs)
	}
	if _, _, err := c.run(t, "undelete", "nothing"); err == nil ||
		!strings.Contains(err.Error(), "no deleted volume nothing") {
		t.Errorf("%v", err)
	}
}

func TestDoctorPrintsRemediesAndFails(t *testing.T) {
	out, _, err := newTestCluster(t).run(t, "doctor", "--quiet")
	if !errors.Is(err, errFaults) ||
		!strings.Contains(out,
			"ERROR   pools           pool default on node node-b: is not open: not_mounted") ||
		!strings.Contains(out, "do: mount the disk") || strings.Contains(out, "OK ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// In central deployment one pod is asked, however many nodes there are.
func TestOneControllerIsAskedInCentralDeployment(t *testing.T) {
	c := newTestCluster(t)
	asked := 0
	p := &plugin{connect: func() (*objects.Reader, reach.Pods, error) {
		return &objects.Reader{Client: c.client, Dynamic: c.dynamic}, reach.Pods{}, nil
	}}
	s, err := p.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.statusOf = func(_ reach.Pods, at target) (reach.API, func() error, error) {
		if asked++; at.pod.Name != "csi-hostpath-controller-a" || at.port != "9815" {
			t.Errorf("%s was asked, port %s", at.pod.Name, at.port)
		}
		return reach.API{}, func() error { return nil }, nil
	}
	_, err = s.ask(t.Context(), func(context.Context, reach.API) error { return nil })
	if err != nil || asked != 1 {
		t.Errorf("%d pods were asked, %v", asked, err)
	}
}

func TestHelpOfEveryCommandHasAnExample(t *testing.T) {
	for _, cmd := range Command(Streams{}).Commands() {
		if cmd.Short == "" || cmd.Example == "" && cmd.Name() != "dashboard" {
			t.Errorf("%s: %q, %q", cmd.Name(), cmd.Short, cmd.Example)
		}
	}
}
