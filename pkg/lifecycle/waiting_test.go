package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podObject is a pod that the scheduler has found no node for, with a claim.
func podObject(claimName string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: named("ns", "pod"),
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName},
		}}}},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
			Reason: corev1.PodReasonUnschedulable, Message: "0/2 nodes are available: too bad.",
		}}},
	}
}

func TestOwnerIsToldWhyThePodCannotFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := podObject("new")
		p.Spec.NodeSelector = map[string]string{"disk": "fast"}
		p.Spec.Tolerations = []corev1.Toleration{{Key: "mine", Operator: corev1.TolerationOpExists}}
		n := nodeObject("c")
		n.Spec.Unschedulable = true
		n.Spec.Taints = []corev1.Taint{
			{Key: "gpu", Value: "only", Effect: corev1.TaintEffectNoSchedule},
			{Key: "mine", Effect: corev1.TaintEffectNoExecute},
			{Key: "better", Effect: corev1.TaintEffectPreferNoSchedule},
		}
		w := newWorld(t, p, n, claimObject("new", "waits", claimKind, "source"), bound("source", "v"),
			volumeObject("v", "c"))
		w.run(func() {
			if n := w.recorder.with(reasonPodCannotFollow); n != 0 {
				t.Errorf("the owner is told at once: %q", w.recorder.events)
			}
			time.Sleep(waitBeforeEvent)
			synctest.Wait()
			if w.recorder.with("PersistentVolumeClaim ns/new", reasonPodCannotFollow,
				"PersistentVolumeClaim source is on node c", "the node is cordoned; "+
					"the pod does not tolerate the node's taint gpu=only:NoSchedule; "+
					"the pod wants a node with the label disk=fast; "+
					"the scheduler says: 0/2 nodes are available: too bad. Let") != 1 {
				t.Errorf("got %q", w.recorder.events)
			}
		})
	})
}

func TestPodWithoutASourceIsTheSchedulersConcern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, podObject("plain"), claimObject("plain", "waits", "", ""))
		w.run(func() {
			time.Sleep(time.Hour)
			if len(w.recorder.events) != 0 {
				t.Errorf("got %q", w.recorder.events)
			}
		})
	})
}

func TestPodIsToldWhyItsClaimHasNoVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := func(name, claimName string) *corev1.Event {
			return &corev1.Event{
				ObjectMeta: named("ns", name), Reason: provisioningFailed, Message: "no space on " + claimName,
				InvolvedObject: corev1.ObjectReference{Kind: claimKind, Namespace: "ns", Name: claimName},
			}
		}
		w := newWorld(t, podObject("new"), claimObject("new", "immediate", "", ""),
			failed("one", "new"), failed("two", "new"), failed("three", "other"),
			claimObject("other", "foreign", "", ""))
		w.run(func() {
			synctest.Wait()
			if len(w.recorder.events) != 1 ||
				w.recorder.with("Pod ns/pod", reasonClaimFailed, "claim new", "no space on new") != 1 {
				t.Errorf("got %q", w.recorder.events)
			}
		})
	})
}

// A copy takes minutes, and each call that does not wait for its end is a failure for
// external-provisioner.
func TestOwnersAreToldHowFarACopyIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		event := func(name, progress string) *corev1.Event {
			return &corev1.Event{
				ObjectMeta: named("ns", name), Reason: provisioningFailed,
				Message: "failed to provision volume: volume x goes on (" + progress + "): ask again",
				InvolvedObject: corev1.ObjectReference{
					Kind: claimKind, Namespace: "ns", Name: "new",
				},
			}
		}
		w := newWorld(t, podObject("new"), claimObject("new", "immediate", "", ""),
			event("one", "1 GiB copied"))
		w.run(func() {
			synctest.Wait()
			send := func(name, progress string) {
				_, err := w.client.CoreV1().Events("ns").Create(t.Context(), event(name, progress),
					metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			send("at once", "2 GiB copied")
			time.Sleep(progressInterval)
			send("later", "3 GiB copied")
			for about, want := range map[string]int{
				"PersistentVolumeClaim ns/new": 2, "Pod ns/pod": 2, "1 GiB copied": 2, "3 GiB copied": 2,
				"Nothing is wrong": 4,
			} {
				if got := w.recorder.with(about, reasonBeingCopied); got != want {
					t.Errorf("%s: %d events, want %d: %q", about, got, want, w.recorder.events)
				}
			}
			if len(w.recorder.events) != 4 {
				t.Errorf("got %q", w.recorder.events)
			}
		})
	})
}
