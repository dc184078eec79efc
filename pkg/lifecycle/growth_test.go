package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
)

func sized(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

func TestOwnerIsToldWhyAClaimDoesNotGrow(t *testing.T) {
	for name, test := range map[string]struct {
		wants, has, volume string // sizes
		provisioner        string
		told               int
	}{
		"by hand":                       {"2Gi", "1Gi", "1Gi", "", 1},
		"of a migrated volume":          {"2Gi", "1Gi", "1Gi", "other.example.com", 1},
		"by hand, the size that it has": {"1Gi", "1Gi", "1Gi", "", 0},
		"by hand, without the policy":   {"2Gi", "1Gi", "2Gi", "", 0},
		"provisioned":                   {"2Gi", "1Gi", "1Gi", driver, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := bound("grows", "v")
				c.Annotations = map[string]string{kube.StorageProvisioner: test.provisioner}
				c.Spec.Resources.Requests, c.Status.Capacity = sized(test.wants), sized(test.has)
				v := ofClaim(volumeObject("v", "b"), c)
				v.Spec.Capacity = sized(test.volume)
				w := newWorld(t, c, v)
				w.run(func() {
					time.Sleep(2 * growthTime)
					synctest.Wait()
					told := w.recorder.with("PersistentVolumeClaim ns/grows", reasonCannotGrow,
						"kubectl -n ns annotate --overwrite pvc grows "+
							"volume.kubernetes.io/storage-provisioner="+driver)
					if told != test.told || len(w.recorder.events) != test.told {
						t.Errorf("events: %q", w.recorder.events)
					}
				})
			})
		})
	}
}

// The event comes again while nothing is done about it, and no more once the claim has the mark.
func TestMarkedClaimIsToldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := bound("new", "v")
		c.Spec.Resources.Requests, c.Status.Capacity = sized("2Gi"), sized("1Gi")
		v := ofClaim(volumeObject("v", "b"), c)
		v.Spec.Capacity = sized("1Gi")
		w := newWorld(t, c, v)
		w.run(func() {
			time.Sleep(growthTime + growthRetry + time.Second)
			synctest.Wait()
			c.Annotations = map[string]string{kube.StorageProvisioner: driver}
			if _, err := w.client.CoreV1().PersistentVolumeClaims("ns").Update(t.Context(), c,
				metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * growthRetry)
			synctest.Wait()
			if w.recorder.with(reasonCannotGrow) != 2 {
				t.Errorf("want two events, got %q", w.recorder.events)
			}
		})
	})
}
