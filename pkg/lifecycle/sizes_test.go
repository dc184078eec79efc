package lifecycle

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// sizedWorld has a claim of a class, bound to volume "v", which is in the pool and as old as that.
func sizedWorld(t *testing.T, className string, age time.Duration, parameters map[string]string,
) *world {
	t.Helper()
	c := claimObject("data", className, "", "")
	c.Spec.VolumeName = "v"
	v := ofClaim(volumeObject("v", "b"), c)
	v.CreationTimestamp = metav1.NewTime(time.Now().Add(-age))
	images := classObject("images", driver, storagev1.VolumeBindingWaitForFirstConsumer)
	images.Parameters = parameters
	w := newWorld(t, c, v, images)
	w.options.Nodes = linked{pool: "b", enforcing: "b"}
	return w
}

// createdEvents are what was sent about claim "data".
func (w *world) createdEvents() (list []corev1.Event) {
	w.Helper()
	synctest.Wait()
	all, err := w.client.CoreV1().Events("ns").List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return all.Items
}

// writes counts the requests that change something.
func (w *world) writes() (n int) {
	for _, a := range w.client.Actions() {
		if verb := a.GetVerb(); verb != "get" && verb != "list" && verb != "watch" {
			n++
		}
	}
	return n
}

// change updates volume "v".
func (w *world) change(change func(*corev1.PersistentVolume)) {
	w.Helper()
	v := w.volume()
	change(v)
	volumes := w.client.CoreV1().PersistentVolumes()
	if _, err := volumes.Update(w.Context(), v, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func TestOwnerIsToldOnceThatTheSizeIsNotEnforced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sizedWorld(t, "waits", time.Second, nil)
		for range 2 { // the second controller has the memory of a new leader
			w.run(func() {
				w.change(func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"a": "b"} })
				time.Sleep(2 * sizeRetry)
			})
		}
		events := w.createdEvents()
		if len(events) != 1 {
			t.Fatalf("%d events: %v", len(events), events)
		}
		e := events[0]
		if e.Reason != reasonNotEnforced || e.InvolvedObject.Name != "data" ||
			e.ReportingController != "csi-hostpath-controller" || e.Type != corev1.EventTypeWarning ||
			!strings.Contains(e.Message, "pool default of node b") ||
			!strings.Contains(e.Message, "backing: enforced") {
			t.Errorf("the owner is told %+v", e)
		}
	})
}

// The events of a burst of claims come later than the claims.
func TestOwnersOfABurstAreToldOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sizedWorld(t, "waits", time.Second, nil)
		const more = 99
		api := w.client.CoreV1()
		for i := range more {
			name := fmt.Sprintf("v-%d", i)
			c := bound("of-"+name, name)
			v := ofClaim(volumeObject(name, "b"), c)
			v.CreationTimestamp = metav1.Now()
			_, err := api.PersistentVolumeClaims("ns").Create(t.Context(), c, metav1.CreateOptions{})
			fixture.Must(t, err)
			_, err = api.PersistentVolumes().Create(t.Context(), v, metav1.CreateOptions{})
			fixture.Must(t, err)
		}
		w.run(func() {
			time.Sleep(time.Second)
			if n := len(w.createdEvents()); n < sizesAtOnce || n > more/2 {
				t.Errorf("%d events after a second", n)
			}
			time.Sleep(time.Minute)
			if n := len(w.createdEvents()); n != 1+more {
				t.Errorf("%d events of %d volumes", n, 1+more)
			}
		})
	})
}

func TestNothingIsWrittenAboutAVolumeWhoseSizeIsEnforced(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	for name, test := range map[string]struct {
		class      string
		age        time.Duration
		parameters map[string]string
		change     func(*corev1.PersistentVolume)
	}{
		"by its pool": {class: "waits", change: func(v *corev1.PersistentVolume) {
			v.Spec.CSI.VolumeHandle = enforcing + "-v"
		}},
		"by its image": {class: "images", parameters: map[string]string{
			"backing": "image", "csi.storage.k8s.io/fstype": "xfs",
		}},
		"by whatever holds it": {class: "images", parameters: map[string]string{"backing": "enforced"}},
		"by the image of a filesystem": {class: "waits", change: func(v *corev1.PersistentVolume) {
			v.Spec.CSI.FSType = "ext4"
		}},
		"by the image of a device": {class: "waits", change: func(v *corev1.PersistentVolume) {
			v.Spec.VolumeMode = &block
		}},
		"not at all, since long": {class: "waits", age: 2 * tellSizeWithin},
		"not at all, of another driver": {class: "foreign", change: func(v *corev1.PersistentVolume) {
			v.Spec.CSI.Driver = "other.example.com"
		}},
		"not at all, without a claim": {class: "waits", change: func(v *corev1.PersistentVolume) {
			v.Status.Phase = corev1.VolumeReleased
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := sizedWorld(t, test.class, test.age, test.parameters)
				if test.change != nil {
					w.change(test.change)
				}
				before := w.writes()
				w.run(func() { time.Sleep(10 * time.Minute) })
				if after := w.writes(); after != before {
					t.Errorf("%d requests change something: %v", after-before, w.client.Actions())
				}
			})
		})
	}
}

// A pool that is not there yet is asked for again.
func TestOwnerIsToldWhenThePoolIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sizedWorld(t, "waits", time.Second, nil)
		var nodes late
		w.options.Nodes = &nodes
		w.run(func() {
			time.Sleep(2 * sizeRetry)
			if events := w.createdEvents(); len(events) != 0 {
				t.Errorf("the owner is told %v", events)
			}
			nodes.isLinked.Store(true)
			time.Sleep(2 * sizeRetry)
			if events := w.createdEvents(); len(events) != 1 {
				t.Errorf("%d events", len(events))
			}
		})
	})
}

// late is a node that has no link at first.
type late struct {
	linked
	isLinked atomic.Bool
}

func (l *late) Pool(volume.PoolID) (Pool, bool) {
	return Pool{Name: "default", Node: "b"}, l.isLinked.Load()
}
