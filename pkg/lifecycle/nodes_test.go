package lifecycle

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// told are the nodes that NodeObjects has told of.
type told struct {
	mu    sync.Mutex
	nodes map[string]NodeObject
	read  []string // the names that were told of before all were read
}

func (s *told) tell(o NodeObject) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[o.Name] = o
}

func (s *told) noteRead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.nodes {
		s.read = append(s.read, name)
	}
}

func (s *told) want(t *testing.T, want NodeObject) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.nodes[want.Name]; got != want {
		t.Errorf("%s is told as %+v, want %+v", want.Name, got, want)
	}
}

func TestNodesAreToldAsTheirObjectsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, &storagev1.CSINode{ObjectMeta: named("", "a"), Spec: storagev1.CSINodeSpec{
			Drivers: []storagev1.CSINodeDriver{{Name: "other.example.com"}, {Name: driver}},
		}})
		objects, err := WatchNodes(w.client, driver)
		if err != nil {
			t.Fatal(err)
		}
		w.options.NodeObjects = objects
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		said := &told{nodes: map[string]NodeObject{}}
		running.Go(func() {
			if err := objects.Run(ctx, said.tell, said.noteRead); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second) // cache.WaitForCacheSync polls
		said.want(t, NodeObject{Name: "a", Exists: true, HasDriver: true})
		said.want(t, NodeObject{Name: "b", Exists: true})
		if len(said.read) != 2 {
			t.Errorf("of %q was told before all were read", said.read)
		}
		w.run(func() {}) // the leader's term begins and ends
		nodes := w.client.CoreV1().Nodes()
		since := metav1.NewTime(time.Now().Truncate(time.Second))
		change := func(do func(*corev1.Node)) {
			n := nodeObject("a")
			do(n)
			if _, err := nodes.Update(ctx, n, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		change(func(n *corev1.Node) { n.Spec.Unschedulable = true })
		said.want(t, NodeObject{Name: "a", Exists: true, HasDriver: true, Cordoned: true})
		change(func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectPreferNoSchedule}}
		})
		said.want(t, NodeObject{Name: "a", Exists: true, HasDriver: true})
		change(func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
		})
		said.want(t, NodeObject{Name: "a", Exists: true, HasDriver: true, Tainted: true})
		change(func(n *corev1.Node) {
			n.Status.Conditions[0].Status = corev1.ConditionUnknown
			n.Status.Conditions[0].LastTransitionTime = since
		})
		said.want(t,
			NodeObject{Name: "a", Exists: true, HasDriver: true, NotReadySince: since.Time})
		if err := nodes.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		said.want(t, NodeObject{Name: "a"})
		stop()
		running.Wait()
	})
}
