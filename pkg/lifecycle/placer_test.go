package lifecycle

import (
	"context"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// linked are the nodes that say where pools are.
type linked map[volume.PoolID]string

func (l linked) OfPool(p volume.PoolID) (string, bool) {
	node, ok := l[p]
	return node, ok
}

// Pool implements Nodes: the pool "dddddddddddd" enforces sizes.
func (l linked) Pool(p volume.PoolID) (Pool, bool) {
	node, ok := l[p]
	return Pool{Name: "default", Node: node, EnforcesSizes: p == enforcing}, ok
}

// IsLinked implements Nodes: every pool's node is linked.
func (l linked) IsLinked(value string) bool {
	for _, node := range l {
		if volume.TopologyValue(node) == value {
			return true
		}
	}
	return false
}

// Unlinked implements Nodes.
func (linked) Unlinked() []string { return nil }

// Health implements Nodes.
func (linked) Health() []PoolHealth { return nil }

// References implements Nodes.
func (linked) References() map[string]map[string][]volume.Fault { return nil }

// Volumes implements Nodes: a volume "pvc-…" in each pool.
func (l linked) Volumes(context.Context) iter.Seq2[Volume, error] {
	return func(yield func(Volume, error) bool) {
		for p, node := range l {
			if !yield(Volume{ID: string(p) + "-" + provisionedName, Node: node}, nil) {
				return
			}
		}
	}
}

func TestClaimIsPlacedWhereItsSourceIs(t *testing.T) {
	long := strings.Repeat("n", 100)
	const handle = pool + "-s-snap"
	snapshots := []runtime.Object{
		claimObject("new", "waits", snapshotKind, "snap"), snapshotObject("content"),
	}
	for name, test := range map[string]struct {
		objects []runtime.Object
		nodes   Nodes
		want    string
	}{
		"a clone": {
			objects: []runtime.Object{
				claimObject("new", "waits", claimKind, "source"),
				bound("source", "v"), volumeObject("v", "b"),
			},
			want: "b",
		},
		"a clone whose pool has moved": {
			objects: []runtime.Object{
				claimObject("new", "waits", claimKind, "source"),
				bound("source", "v"), volumeObject("v", "b"),
			},
			nodes: linked{pool: "a"},
			want:  "a",
		},
		"a clone of a node with a long name": {
			objects: []runtime.Object{
				claimObject("new", "waits", claimKind, "source"), nodeObject(long),
				bound("source", "v"), volumeObject("v", long),
			},
			want: long,
		},
		"a snapshot of a linked node": {
			objects: append(snapshots, contentObject(driver, handle, "")),
			nodes:   linked{pool: "b"},
			want:    "b",
		},
		"a snapshot with a label": {
			objects: append(snapshots, managed(contentObject(driver, handle, ""), "b")),
			want:    "b",
		},
		"a snapshot beside a volume": {
			objects: append(snapshots, contentObject(driver, handle, ""),
				volumeObject("any", "b")),
			want: "b",
		},
		"a snapshot that is being made": {
			objects: append(snapshots, contentObject(driver, "", pool+"-v"),
				volumeObject("any", "b")),
			want: "b",
		},
		"a snapshot without a content": {
			objects: []runtime.Object{
				claimObject("new", "waits", snapshotKind, "snap"), snapshotObject(""),
				bound("source", "v"), volumeObject("v", "b"),
			},
			want: "b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, test.objects...)
				w.options.Nodes = test.nodes
				w.run(func() {
					if got := w.selected(); got != test.want {
						t.Errorf("it is placed on %q, want %q", got, test.want)
					}
					time.Sleep(time.Hour)
					if n := w.patches(); n != 1 {
						t.Errorf("it was placed %d times", n)
					}
				})
			})
		})
	}
}

func TestOtherClaimsAreLeftAlone(t *testing.T) {
	foreign := volumeObject("foreign", "b")
	foreign.Spec.CSI.Driver = "other.example.com"
	gone := claimObject("new", "waits", claimKind, "source")
	gone.DeletionTimestamp, gone.Finalizers = &metav1.Time{Time: time.Now()}, []string{"a/b"}
	ready := claimObject("new", "waits", claimKind, "source")
	ready.Spec.VolumeName = "v"
	filled := claimObject("new", "waits", "Filler", "source")
	for name, objects := range map[string][]runtime.Object{
		"Immediate":         {claimObject("new", "immediate", claimKind, "source")},
		"of another driver": {claimObject("new", "foreign", claimKind, "source")},
		"without a source":  {claimObject("new", "waits", "", "")},
		"without a class":   {claimObject("new", "absent", claimKind, "source")},
		"of another driver's data": {
			claimObject("new", "waits", claimKind, "other"), bound("other", "foreign"), foreign,
		},
		"being deleted":     {gone},
		"bound":             {ready},
		"filled by another": {filled},
		"of another driver's snapshot": {
			claimObject("new", "waits", snapshotKind, "snap"), snapshotObject("content"),
			contentObject("other.example.com", pool+"-s-snap", ""),
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, append(objects, bound("source", "v"), volumeObject("v", "b"))...)
				w.run(func() {
					time.Sleep(time.Hour)
					if got := w.selected(); got != "" || w.patches() != 0 {
						t.Errorf("it is placed on %q, after %d writes", got, w.patches())
					}
				})
			})
		})
	}
}

// clone is a claim "new" whose source is on node b.
func clone() []runtime.Object {
	return []runtime.Object{
		claimObject("new", "waits", claimKind, "source"),
		bound("source", "v"), volumeObject("v", "b"),
	}
}

func TestWrongChoiceOfTheSchedulerIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chosen := claimObject("new", "waits", claimKind, "source")
		chosen.Annotations = map[string]string{kube.SelectedNode: "a"}
		w := newWorld(t, append(clone()[1:], chosen)...)
		w.run(func() {
			if got := w.selected(); got != "b" {
				t.Errorf("it is placed on %q", got)
			}
		})
	})
}

func TestLateSourceIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, claimObject("new", "waits", snapshotKind, "snap"))
		w.run(func() {
			time.Sleep(time.Minute)
			content := managed(contentObject(driver, pool+"-s-snap", ""), "b")
			for resource, o := range map[string]*unstructured.Unstructured{
				"volumesnapshots":        snapshotObject("content"),
				"volumesnapshotcontents": content,
			} {
				_, err := w.dynamic.Resource(snapshotResource(resource)).Namespace(o.GetNamespace()).
					Create(t.Context(), o, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(lastRetry)
			if got := w.selected(); got != "b" {
				t.Errorf("it is placed on %q", got)
			}
		})
	})
}

// A node without room: external-provisioner takes the node off the claim each time.
func TestClaimThatItsNodeRefusesIsPlacedAgainEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, clone()...)
		w.run(func() {
			start := time.Now()
			for n := range 10 {
				for w.selected() == "" {
					time.Sleep(100 * time.Millisecond)
				}
				told := w.recorder.with("PersistentVolumeClaim ns/new", reasonRefused, "node b")
				if (told > 0) != (n >= refusals) {
					t.Errorf("after %d placements the owner was told %d times", n+1, told)
				}
				w.selectNode("")
			}
			if took := time.Since(start); took < 5*time.Minute || took > 15*time.Minute {
				t.Errorf("10 placements took %v", took)
			}
		})
	})
}

// The scheduler, which pauses between its own tries, chooses another node after each refusal.
func TestSchedulerIsAnsweredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, clone()...)
		w.run(func() {
			for range 10 {
				time.Sleep(10 * time.Second)
				w.selectNode("a")
				if got := w.selected(); got != "b" {
					t.Errorf("it is placed on %q", got)
				}
			}
		})
	})
}

func TestOwnerIsToldThatTheSourcesNodeIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, claimObject("new", "waits", claimKind, "source"), bound("source", "v"),
			volumeObject("v", "c"))
		w.run(func() {
			if w.recorder.with("PersistentVolumeClaim ns/new", reasonNodeGone, "node c") == 0 {
				t.Errorf("got %q", w.recorder.events)
			}
			_, err := w.client.CoreV1().Nodes().Create(t.Context(), nodeObject("c"),
				metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(goneRetry)
			if got := w.selected(); got != "c" {
				t.Errorf("it is placed on %q", got)
			}
		})
	})
}
