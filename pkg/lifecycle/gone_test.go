package lifecycle

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const afterGone = time.Hour

// goneWorld has a claim of a class, bound to volume "v" on node "c". The node exists unless gone.
func goneWorld(t *testing.T, className string, more ...runtime.Object) *world {
	t.Helper()
	c := claimObject("data", className, "", "")
	c.Spec.VolumeName = "v"
	w := newWorld(t, append(more, c, ofClaim(volumeObject("v", "c"), c))...)
	w.options.NodeGoneAfter, w.options.Nodes = afterGone, linked{}
	return w
}

func (w *world) claimExists() bool {
	w.Helper()
	synctest.Wait()
	_, err := w.client.CoreV1().PersistentVolumeClaims("ns").Get(w.Context(), "data",
		metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.Fatal(err)
	}
	return err == nil
}

// volume is volume "v"; nil: it is gone.
func (w *world) volume() *corev1.PersistentVolume {
	w.Helper()
	synctest.Wait()
	v, err := w.client.CoreV1().PersistentVolumes().Get(w.Context(), "v", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return v
}

// setPhase does what Kubernetes does when the claim is gone.
func (w *world) setPhase(phase corev1.PersistentVolumePhase) {
	w.Helper()
	v := w.volume()
	v.Status.Phase = phase
	volumes := w.client.CoreV1().PersistentVolumes()
	if _, err := volumes.UpdateStatus(w.Context(), v, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func TestClaimOfADeletedNodeIsReleasedIfItsClassSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := goneWorld(t, "releasing")
		w.run(func() {
			if w.recorder.with("PersistentVolumeClaim ns/data", reasonGone, "Node c", "1h0m0s") != 1 {
				t.Errorf("the owner is told %q", w.recorder.events)
			}
			time.Sleep(afterGone - 2*time.Minute)
			if !w.claimExists() {
				t.Fatal("the claim is deleted too early")
			}
			time.Sleep(4 * time.Minute)
			if w.claimExists() {
				t.Error("the claim is still there")
			}
			if w.volume() == nil {
				t.Error("the volume is deleted before its claim is gone for Kubernetes")
			}
			w.setPhase(corev1.VolumeReleased)
			time.Sleep(2 * time.Minute)
			// The fake API server deletes at once, whatever the finalizers.
			if w.volume() != nil {
				t.Error("the volume is still there")
			}
			if len(w.recorder.events) != 2 {
				t.Errorf("events: %q", w.recorder.events)
			}
		})
	})
}

func TestClaimIsKept(t *testing.T) {
	for name, test := range map[string]struct {
		class string
		nodes linked
		more  []runtime.Object
	}{
		"its class does not say so":    {class: "waits"},
		"its node is there, not ready": {class: "releasing", more: []runtime.Object{unready("c")}},
		"its node is linked":           {class: "releasing", nodes: linked{pool: "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := goneWorld(t, test.class, test.more...)
				w.options.Nodes = test.nodes
				w.run(func() {
					time.Sleep(100 * time.Hour)
					if !w.claimExists() || w.volume() == nil {
						t.Error("claim or volume is gone")
					}
				})
			})
		})
	}
}

func unready(name string) *corev1.Node {
	n := nodeObject(name)
	n.Status.Conditions[0].Status = corev1.ConditionUnknown
	return n
}

// A node that returns in time finds everything as it was, and the time begins again.
func TestNodeThatReturnsIsNotGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := goneWorld(t, "releasing")
		w.run(func() {
			nodes := w.client.CoreV1().Nodes()
			for range 3 {
				time.Sleep(afterGone - 5*time.Minute)
				if w.volume().Annotations[driver+goneSince] == "" {
					t.Error("the volume is not marked")
				}
				if _, err := nodes.Create(t.Context(), nodeObject("c"), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				if _, marked := w.volume().Annotations[driver+goneSince]; marked {
					t.Error("the volume is still marked")
				}
				if err := nodes.Delete(t.Context(), "c", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
			}
			if !w.claimExists() {
				t.Error("the claim is deleted")
			}
		})
	})
}

// The time goes on while no controller runs.
func TestTimeOfANodesDeletionSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := goneWorld(t, "releasing")
		w.run(func() { time.Sleep(time.Minute) })
		time.Sleep(afterGone)
		w.run(func() {
			if w.claimExists() {
				t.Error("the claim is still there")
			}
		})
	})
}

func TestVolumeOfADeletedNodeDoesNotHangForEver(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*corev1.PersistentVolume)
		kept   bool
	}{
		"its claim is gone": {change: func(*corev1.PersistentVolume) {}},
		"Retain": {kept: true, change: func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}},
		"written by hand": {kept: true, change: func(v *corev1.PersistentVolume) { v.Annotations = nil }},
		"bound": {
			kept:   true,
			change: func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeBound },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := ofClaim(volumeObject("v", "c"), claimObject("data", "waits", "", ""))
				v.Status.Phase = corev1.VolumeReleased
				test.change(v)
				w := newWorld(t, v)
				w.options.NodeGoneAfter, w.options.Nodes = afterGone, linked{}
				w.run(func() {
					time.Sleep(afterGone - 2*time.Minute)
					if w.volume() == nil {
						t.Error("the volume is deleted too early")
					}
					time.Sleep(10 * time.Minute)
					if got := w.volume() != nil; got != test.kept {
						t.Errorf("the volume exists: %v, want %v", got, test.kept)
					}
				})
			})
		})
	}
}

// external-provisioner's finalizer is taken off, and no other.
func TestOnlyTheProvisionersFinalizerIsTakenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := ofClaim(volumeObject("v", "c"), claimObject("data", "waits", "", ""))
		v.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		w := newWorld(t, v)
		g := &goneNodes{client: w.client}
		slim := slimmer{driverName: driver}.volume(v)
		if err := g.dropFinalizer(t.Context(), slim); err != nil {
			t.Fatal(err)
		}
		if got := w.volume().Finalizers; !slices.Equal(got, []string{"kubernetes.io/pv-protection"}) {
			t.Errorf("finalizers: %q", got)
		}
	})
}

// An API server that says there is no node at all is not believed.
func TestNothingIsDoneWithoutAnyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := goneWorld(t, "releasing")
		for _, name := range []string{"a", "b"} {
			err := w.client.CoreV1().Nodes().Delete(t.Context(), name, metav1.DeleteOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		w.run(func() {
			time.Sleep(10 * afterGone)
			if !w.claimExists() {
				t.Error("the claim is deleted")
			}
		})
	})
}

func TestVolumeWithoutAnObjectIsReportedAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := volumeObject(provisionedName, "b")
		w := newWorld(t, known)
		w.options.Nodes = linked{pool: "b", "cccccccccccc": "a"}
		w.options.Metrics = NewMetrics()
		w.run(func() {
			time.Sleep(2 * orphanInterval)
			got := w.controller.Orphans()
			if len(got) != 1 || got[0].Dir != provisionedName || got[0].Pool != "default" ||
				got[0].Node != "a" || time.Since(got[0].Since) < orphanInterval {
				t.Errorf("orphans: %+v", got)
			}
			for name, want := range map[string]float64{"a": 1, "b": 0} {
				if n := valueOfNode(t, w.options.Metrics.orphans, name); n != want {
					t.Errorf("node %s has %v orphans, want %v", name, n, want)
				}
			}
		})
		if n := valueOfNode(t, w.options.Metrics.orphans, "a"); n != 0 {
			t.Errorf("a process that leads no more says that node a has %v orphans", n)
		}
	})
}

// The object of a volume that was taken back has another name, and that of a new volume comes
// later.
func TestOnlyAVolumeThatIsReportedHasNoObjectForSure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const handle, orphan = pool + "-" + provisionedName, "cccccccccccc-" + provisionedName
		c := claimObject("data", "waits", "", "")
		takenBack := ofClaim(volumeObject("orders-restored", "b"), c)
		takenBack.Spec.CSI.VolumeHandle = handle
		old := ofClaim(volumeObject("orders", "b"), c)
		old.Spec.CSI.VolumeHandle, old.Status.Phase = handle, corev1.VolumeReleased
		other := volumeObject(provisionedName, "a")
		other.Spec.CSI.Driver, other.Spec.CSI.VolumeHandle = "other.example.com", orphan
		w := newWorld(t, takenBack, old, other)
		w.options.Nodes, w.options.Metrics = linked{pool: "b", "cccccccccccc": "a"}, NewMetrics()
		w.run(func() {
			o, exists, known := w.controller.VolumeObject(handle)
			if !known || !exists || o.Claim != "data" || o.ClaimNamespace != "ns" || o.Released {
				t.Errorf("an object with another name: %+v, %v, %v", o, exists, known)
			}
			if _, exists, known := w.controller.VolumeObject(orphan); exists || known {
				t.Errorf("a new volume: exists %v, known %v", exists, known)
			}
			time.Sleep(2 * orphanInterval)
			if _, exists, known := w.controller.VolumeObject(orphan); exists || !known {
				t.Errorf("an orphan: exists %v, known %v", exists, known)
			}
			if _, exists, known := w.controller.VolumeObject("other"); exists || known {
				t.Errorf("a volume of no node: exists %v, known %v", exists, known)
			}
		})
	})
}

func valueOfNode(t *testing.T, metric *prometheus.GaugeVec, name string) float64 {
	t.Helper()
	var m dto.Metric
	if err := metric.WithLabelValues(name).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}

// Also without a time after which something is done.
func TestVolumesOfADeletedNodeAreListed(t *testing.T) {
	for _, after := range []time.Duration{0, afterGone} {
		synctest.Test(t, func(t *testing.T) {
			w := goneWorld(t, "releasing", unready("d"), volumeObject("w", "d"))
			w.options.NodeGoneAfter, w.options.Metrics = after, NewMetrics()
			w.run(func() {
				time.Sleep(afterGone / 2)
				synctest.Wait()
				got := w.controller.GoneVolumes()
				if len(got) != 1 || got[0].Name != "v" || got[0].Node != "c" || !got[0].Claimed ||
					got[0].Since.IsZero() != (after == 0) {
					t.Errorf("after %v: %+v", after, got)
				}
				if n := valueOfNode(t, w.options.Metrics.gone, "c"); n != 1 {
					t.Errorf("after %v: the metric is %v", after, n)
				}
				time.Sleep(10 * afterGone)
				if kept := w.claimExists(); kept != (after == 0) {
					t.Errorf("after %v: the claim exists: %v", after, kept)
				}
			})
		})
	}
}

// A node that is not ready, or does not exist, is told of by others.
func TestReadyNodesThatAreNotLinkedAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, volumeObject("v", "a"), volumeObject("w", "b"), unready("c"),
			nodeObject("d"), nodeObject("e"), volumeObject("x", "c"))
		w.options.Nodes, w.options.Metrics = lately{linked{pool: "b"}}, NewMetrics()
		w.run(func() {
			time.Sleep(unlinkedInterval + time.Second)
			for name, want := range map[string]float64{"a": 1, "b": 0, "c": 0, "d": 1, "e": 0, "f": 0} {
				if got := valueOfNode(t, w.options.Metrics.unlinked, name); got != want {
					t.Errorf("node %s: %v, want %v", name, got, want)
				}
			}
		})
	})
}

// lately are nodes of which d and f, which does not exist, were linked within a day.
type lately struct{ linked }

func (lately) Unlinked() []string { return []string{"d", "f"} }
