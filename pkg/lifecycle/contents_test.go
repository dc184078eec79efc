package lifecycle

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// deletedContent is "content" while its deletion waits.
func deletedContent(policy string) *unstructured.Unstructured {
	o := contentObject(driver, pool+"-s-snap", "")
	if err := unstructured.SetNestedField(o.Object, policy, "spec", "deletionPolicy"); err != nil {
		panic(err)
	}
	o.SetUID("uid-of-content")
	o.SetFinalizers([]string{"example.com/kept", contentFinalizer})
	o.SetDeletionTimestamp(&metav1.Time{Time: time.Now()})
	return o
}

// ofNodeC gives a content the label of node "c".
func ofNodeC(o *unstructured.Unstructured) { managed(o, "c") }

// foreign makes a content another driver's.
func foreign(o *unstructured.Unstructured) {
	if err := unstructured.SetNestedField(o.Object, "x", "spec", "driver"); err != nil {
		panic(err)
	}
}

// content is what the API server has of "content"; nil: it is gone.
func (w *world) content() *unstructured.Unstructured {
	w.Helper()
	synctest.Wait()
	o, err := w.dynamic.Resource(contentResource()).Get(w.Context(), "content", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return o
}

func TestSnapshotOfADeletedNodeDoesNotHangForEver(t *testing.T) {
	for name, test := range map[string]struct {
		policy string
		nodes  linked
		more   []runtime.Object
		change func(*unstructured.Unstructured)
		kept   bool
	}{
		"its node is known by its pool": {
			policy: "Delete", nodes: linked{}, more: []runtime.Object{volumeObject("v", "c")},
		},
		"its node is known by its label": {policy: "Delete", nodes: linked{}, change: ofNodeC},
		"its node is marked": {
			policy: "Delete", nodes: linked{}, change: func(o *unstructured.Unstructured) {
				o.SetAnnotations(map[string]string{driver + goneNode: "c"})
			},
		},
		"its node is not known": {policy: "Delete", nodes: linked{}, kept: true},
		"its node is linked":    {policy: "Delete", nodes: linked{pool: "c"}, kept: true},
		"its node is not ready": {
			policy: "Delete", nodes: linked{}, kept: true,
			more: []runtime.Object{volumeObject("v", "c"), unready("c")},
		},
		"the policy is Retain": {
			policy: "Retain", nodes: linked{}, kept: true,
			more: []runtime.Object{volumeObject("v", "c")},
		},
		"it is not deleted": {
			policy: "Delete", nodes: linked{}, kept: true,
			more:   []runtime.Object{volumeObject("v", "c")},
			change: func(o *unstructured.Unstructured) { o.SetDeletionTimestamp(nil) },
		},
		"it is another driver's": {
			policy: "Delete", nodes: linked{}, kept: true, change: foreign,
			more: []runtime.Object{volumeObject("v", "c")},
		},
		"another disk of the pool is here": {
			policy: "Delete", nodes: linked{pool: "b"}, kept: true, change: ofNodeC,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := deletedContent(test.policy)
				if test.change != nil {
					test.change(o)
				}
				w := newWorld(t, append(test.more, o)...)
				w.options.Snapshots, w.options.NodeGoneAfter, w.options.Nodes = true, afterGone, test.nodes
				w.run(func() {
					time.Sleep(afterGone - 2*time.Minute)
					if got := w.content(); got == nil || !slices.Contains(got.GetFinalizers(), contentFinalizer) {
						t.Error("the snapshot is given up too early")
					}
				})
				w.run(func() { // the time goes on after a restart
					time.Sleep(10 * time.Minute)
					got := w.content()
					kept := got != nil && slices.Contains(got.GetFinalizers(), contentFinalizer)
					if kept != test.kept {
						t.Errorf("the finalizer is kept: %v, want %v", kept, test.kept)
					}
					if !kept && got != nil && !slices.Equal(got.GetFinalizers(), []string{"example.com/kept"}) {
						t.Errorf("finalizers: %q", got.GetFinalizers())
					}
				})
				told := w.recorder.with("VolumeSnapshotContent /content", reasonGone, "Node c", "1h0m0s")
				marked := w.content() != nil && w.content().GetAnnotations()[driver+goneSince] != ""
				if (told == 1) != marked || told > 1 {
					t.Errorf("told %d times, marked: %v; events: %q", told, marked, w.recorder.events)
				}
			})
		})
	}
}

// A node that returns in time deletes its snapshot itself.
func TestSnapshotOfANodeThatReturnsIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, volumeObject("v", "c"), deletedContent("Delete"))
		w.options.Snapshots, w.options.NodeGoneAfter, w.options.Nodes = true, afterGone, linked{}
		w.run(func() {
			time.Sleep(afterGone / 2)
			if got := w.content().GetAnnotations(); got[driver+goneNode] != "c" {
				t.Errorf("annotations: %q", got)
			}
			nodes := w.client.CoreV1().Nodes()
			if _, err := nodes.Create(t.Context(), nodeObject("c"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * afterGone)
			got := w.content()
			if len(got.GetFinalizers()) != 2 || len(got.GetAnnotations()) != 0 {
				t.Errorf("finalizers %q, annotations %q", got.GetFinalizers(), got.GetAnnotations())
			}
		})
	})
}

func TestSnapshotWithoutALabelIsToldOfInNodeDeployment(t *testing.T) {
	for name, test := range map[string]struct {
		more   []runtime.Object
		change func(*unstructured.Unstructured)
		told   string
	}{
		"its pool has a volume": {
			more: []runtime.Object{volumeObject("v", "b")}, told: managedBy + "=b.",
		},
		"its pool has none":   {told: managedBy + "=NODE, with the node that has pool " + pool},
		"it has the label":    {change: func(o *unstructured.Unstructured) { managed(o, "b") }},
		"it is not ours":      {change: foreign},
		"snapshots are unset": {change: func(o *unstructured.Unstructured) { o.SetName("other") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := contentObject(driver, "", "")
				o.SetUID("uid-of-content")
				err := unstructured.SetNestedField(o.Object, pool+"-s-snap", "spec", "source",
					"snapshotHandle")
				if err != nil {
					t.Fatal(err)
				}
				if test.change != nil {
					test.change(o)
				}
				w := newWorld(t, append(test.more, o)...)
				w.options.Snapshots = name != "snapshots are unset"
				for range 2 {
					w.run(func() { time.Sleep(3 * unlabelledInterval) })
				}
				events, err := w.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if test.told == "" {
					if len(events.Items) > 0 {
						t.Errorf("events: %v", events.Items)
					}
					return
				}
				if len(events.Items) != 1 {
					t.Fatalf("events: %v", events.Items)
				}
				e := events.Items[0]
				if !strings.Contains(e.Message, test.told) || e.InvolvedObject.Kind != contentKind ||
					e.Type != corev1.EventTypeWarning {
					t.Errorf("event: %v", e)
				}
			})
		})
	}
}
