package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestOwnerIsToldThatACloneKeepsTheClaim(t *testing.T) {
	for name, test := range map[string]struct {
		finalizers []string
		deleted    bool
		told       int
	}{
		"deleted":      {[]string{cloneFinalizer}, true, 1},
		"not deleted":  {[]string{cloneFinalizer}, false, 0},
		"used by pods": {[]string{"kubernetes.io/pvc-protection"}, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := bound("source", "v")
				c.Finalizers = test.finalizers
				if test.deleted {
					c.DeletionTimestamp = &metav1.Time{Time: time.Now()}
				}
				w := newWorld(t, c, volumeObject("v", "b"),
					claimObject("clone", "immediate", claimKind, "source"),
					claimObject("other", "immediate", claimKind, "else"))
				w.run(func() {
					time.Sleep(2 * deletionTime)
					synctest.Wait()
					if n := w.recorder.with("PersistentVolumeClaim ns/source", reasonKeptForClone,
						"bound or deleted: clone. Look"); n != test.told || len(w.recorder.events) != test.told {
						t.Errorf("events: %q", w.recorder.events)
					}
				})
			})
		})
	}
}

func TestVolumeSaysThatItsDeletionWaitsForItsNode(t *testing.T) {
	for name, test := range map[string]struct {
		phase  corev1.PersistentVolumePhase
		node   []runtime.Object
		events int
		state  string
	}{
		"not ready": {corev1.VolumeReleased, []runtime.Object{unready("c")}, 1, "is not ready"},
		"gone":      {corev1.VolumeReleased, nil, 1, "does not exist"},
		"ready":     {corev1.VolumeReleased, []runtime.Object{nodeObject("c")}, 0, ""},
		"bound":     {corev1.VolumeBound, nil, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := ofClaim(volumeObject("v", "c"), claimObject("gone", "waits", "", ""))
				v.Status.Phase = test.phase
				w := newWorld(t, append(test.node, v)...)
				w.run(func() {
					time.Sleep(2 * deletionTime)
					synctest.Wait()
					if w.recorder.with("PersistentVolume /v", reasonNodeNotReady, "node c, which", test.state) !=
						test.events || len(w.recorder.events) != test.events {
						t.Errorf("events: %q", w.recorder.events)
					}
				})
			})
		})
	}
}
