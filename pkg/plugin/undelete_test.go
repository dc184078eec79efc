package plugin

import (
	"errors"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// newNodeDeployment is a cluster of two nodes without a controller. Node-b says what it likes.
func newNodeDeployment(t *testing.T) *testCluster {
	t.Helper()
	c := newTestCluster(t)
	labels := map[string]string{
		"app.kubernetes.io/name": "csi-hostpath", "app.kubernetes.io/instance": "csi-hostpath",
	}
	spec := podTemplate("driver", "--driver-name="+objects.DefaultDriver,
		"--endpoint=unix:///p/csi.sock", "--status-address=127.0.0.1:9815")
	set := &apps.DaemonSet{ObjectMeta: metaOf(objects.DefaultNamespace, "csi-hostpath")}
	set.Labels = labels
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	set.Spec.Template.Spec = spec
	other := spec
	other.NodeName = "node-b"
	c.client = fake.NewClientset(set, runningPod("csi-hostpath-a", labels, spec),
		runningPod("csi-hostpath-b", labels, other), volumeObject("pvc-1"))
	c.allow("*")
	c.client.PrependReactor("create", "*", dryRun)
	c.client.PrependReactor("list", "pods", podsOfNode(c.client.Tracker()))
	honest := answersOf()
	honest["pools"] = []status.Pool{{Node: "node-a", Name: "default", ID: "7a3baca9c553", Ready: true}}
	c.byNode = map[string]map[string]any{
		"node-a": honest,
		"node-b": {
			"pools": []status.Pool{{Node: "node-b", Name: "default", ID: "0123456789ab", Ready: true}},
			"trash": []status.TrashEntry{},
		},
	}
	return c
}

// podsOfNode selects the driver's pod by its node: the fake knows no field selectors.
func podsOfNode(objectsOf k8stesting.ObjectTracker) k8stesting.ReactionFunc {
	return func(a k8stesting.Action) (bool, runtime.Object, error) {
		list, ok := a.(k8stesting.ListAction)
		if !ok {
			return false, nil, nil
		}
		node, selects := list.GetListRestrictions().Fields.RequiresExactMatch("spec.nodeName")
		if !selects {
			return false, nil, nil
		}
		object, err := objectsOf.Get(core.SchemeGroupVersion.WithResource("pods"),
			objects.DefaultNamespace, "csi-hostpath-"+strings.TrimPrefix(node, "node-"))
		if pod, ok := object.(*core.Pod); ok && err == nil {
			return true, &core.PodList{Items: []core.Pod{*pod}}, nil
		}
		return true, &core.PodList{}, nil
	}
}

// lie has node-b list an entry for the claim that the operator looks for.
func (c *testCluster) lie(e status.TrashEntry) {
	e.Pool, e.State = "default", status.Retained
	e.Claim = &status.ObjectName{Namespace: "shop", Name: "lost"}
	c.byNode["node-b"]["trash"] = []status.TrashEntry{e}
}

// What a node says of another node is taken as said of itself: the other node is not asked.
func TestDriverSpeaksOnlyForItsNode(t *testing.T) {
	c := newNodeDeployment(t)
	c.lie(status.TrashEntry{Node: "node-a", Entry: "pvc-9.0000000c", ID: "0123456789ab-pvc-9"})
	c.execOut = `{"id":"0123456789ab-pvc-9","pool":"default","capacityBytes":5,
		"topology":{"topology.hostpath.csi.local/node":"node-a"}}`
	if _, _, err := c.run(t, "undelete", "shop/lost", "--claim", "shop/lost"); err != nil {
		t.Fatal(err)
	}
	if len(c.execs) != 1 || !strings.HasPrefix(c.execs[0], "csi-hostpath-b ") {
		t.Errorf("it ran %q", c.execs)
	}
	pv, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-9", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := affinityOf(volume.Topology(objects.DefaultDriver, "node-b"))
	if got := pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0]; got.Key !=
		want.Required.NodeSelectorTerms[0].MatchExpressions[0].Key || got.Values[0] != "node-b" {
		t.Errorf("the PersistentVolume is for %v, want node-b", got)
	}
	if _, _, err := c.run(t, "undelete", "shop/lost", "--node", "node-a"); err == nil ||
		len(c.execs) != 1 {
		t.Errorf("%v, it ran %q", err, c.execs)
	}
}

// A PersistentVolume for a volume of another node could delete that volume.
func TestNodeGetsNoPersistentVolumeForAVolumeOfAnother(t *testing.T) {
	own := status.TrashEntry{Entry: "pvc-9.0000000c", ID: "0123456789ab-pvc-9"}
	for _, tc := range []struct {
		title  string
		entry  status.TrashEntry
		pools  []status.Pool
		answer string
		want   string
	}{
		{
			"the list has another node's volume",
			status.TrashEntry{Entry: "pvc-1.0000000c", ID: "7a3baca9c553-pvc-1"},
			nil, "7a3baca9c553-pvc-1", "is not known as a pool of that node alone",
		},
		{
			"the node says that it has the pool, too",
			status.TrashEntry{Entry: "pvc-1.0000000c", ID: "7a3baca9c553-pvc-1"},
			[]status.Pool{{ID: "7a3baca9c553"}},
			"7a3baca9c553-pvc-1",
			"is not known as a pool of that node alone",
		},
		{
			"the list has another volume than the entry's",
			status.TrashEntry{Entry: "pvc-9.0000000c", ID: "0123456789ab-pvc-1"},
			nil, "0123456789ab-pvc-1", "do not trust that node",
		},
		{"the answer is for another volume", own, nil, "7a3baca9c553-pvc-1", "no objects are made"},
		{
			"an entry without an ID",
			status.TrashEntry{Entry: "pvc-1.0000000c"},
			nil, "7a3baca9c553-pvc-1", "is not known as a pool of that node alone",
		},
	} {
		t.Run(tc.title, func(t *testing.T) {
			c := newNodeDeployment(t)
			c.lie(tc.entry)
			if tc.pools != nil {
				c.byNode["node-b"]["pools"] = tc.pools
			}
			c.execOut = `{"id":"` + tc.answer + `","pool":"default","capacityBytes":5}`
			_, _, err := c.run(t, "undelete", "shop/lost", "--claim", "shop/lost", "--pv", "new")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			all, err := c.client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
			if err != nil || len(all.Items) != 1 {
				t.Errorf("%d PersistentVolumes, %v; want 1", len(all.Items), err)
			}
		})
	}
}

// A node that cannot be asked does not say which pools it has.
func TestVolumeGetsNoSecondPersistentVolume(t *testing.T) {
	c := newNodeDeployment(t)
	c.lie(status.TrashEntry{Entry: "pvc-1.0000000c", ID: "7a3baca9c553-pvc-1"})
	c.byNode["node-a"], c.byNode["node-b"]["pools"] = nil, []status.Pool{{ID: "7a3baca9c553"}}
	_, _, err := c.run(t, "undelete", "shop/lost", "--claim", "shop/lost", "--pv", "new")
	if err == nil || !strings.Contains(err.Error(), "PersistentVolume pvc-1 is of volume") ||
		len(c.execs) != 0 {
		t.Errorf("%v, it ran %q", err, c.execs)
	}
}

// The volume is back after the first call, and its entry is gone. The second call makes what the
// first one could not.
func TestUndeleteAgainMakesTheObjects(t *testing.T) {
	c := newTestCluster(t)
	c.execOut = undeletedAnswer
	refused := true
	c.client.PrependReactor("create", "persistentvolumeclaims",
		func(a k8stesting.Action) (bool, runtime.Object, error) {
			create, ok := a.(k8stesting.CreateActionImpl)
			if !ok || len(create.CreateOptions.DryRun) > 0 || !refused {
				return false, nil, nil
			}
			return true, nil, errors.New("out of quota")
		})
	const again = "kubectl hostpath undelete --node node-a --claim shop/old pvc-3.0000000a"
	out, errs, err := c.run(t, "undelete", "pvc-3")
	if err != nil || !strings.Contains(errs, again) ||
		!strings.Contains(out, "kind: PersistentVolume\n") {
		t.Errorf("without --claim: %v, %q\n%s", err, errs, out)
	}
	c.answers["trash"] = []status.TrashEntry{}
	args := strings.Fields(strings.TrimPrefix(again, "kubectl hostpath "))
	out, errs, err = c.run(t, args...)
	if err == nil || !strings.Contains(err.Error(), "out of quota") ||
		!strings.Contains(errs, again) || !strings.Contains(out, "kind: PersistentVolumeClaim") {
		t.Errorf("with a claim that is refused: %v, %q\n%s", err, errs, out)
	}
	refused = false
	c.execOut = strings.Replace(undeletedAnswer, "{", `{"wasNotInTrash": true,`, 1)
	if out, errs, err = c.run(t, args...); err != nil ||
		!strings.Contains(errs, "was not in the trash: nothing was changed there") ||
		!strings.Contains(out, "persistentvolumeclaim/old created in namespace shop") {
		t.Errorf("again: %v, %q\n%s", err, errs, out)
	}
	for name, object := range map[string]func() error{
		"PersistentVolume": func() error {
			_, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-3",
				metav1.GetOptions{})
			return err
		},
		"claim": func() error {
			_, err := c.client.CoreV1().PersistentVolumeClaims("shop").Get(t.Context(), "old",
				metav1.GetOptions{})
			return err
		},
	} {
		if err := object(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.execErr = errors.New("a power cut may undo that: ask again")
	if _, _, err := c.run(t, args...); err == nil ||
		!strings.Contains(err.Error(), "kubectl hostpath undelete --node node-a pvc-3.0000000a") {
		t.Errorf("after an fsync that failed: %v", err)
	}
	if want := "-- pvc-3.0000000a"; len(c.execs) != 4 || !strings.HasSuffix(c.execs[2], want) {
		t.Errorf("it ran %q", c.execs)
	}
}
