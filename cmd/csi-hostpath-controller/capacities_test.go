package main

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	storage "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A node that is not upgraded yet makes its object again.
func TestCapacitiesOfNodeDeploymentAreForgottenUntilTheUpgradeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		capacities := client.StorageV1().CSIStorageCapacities("csi")
		provision := func() {
			_, err := capacities.Create(t.Context(), &storage.CSIStorageCapacity{
				ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{
					"csi.storage.k8s.io/drivername": "hostpath.csi.local",
					"csi.storage.k8s.io/managed-by": "external-provisioner-node-1",
				}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		left := func() int {
			list, err := capacities.List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(list.Items)
		}
		o := &serveOptions{driverName: "hostpath.csi.local", kube: kubeOptions{namespace: "csi"}}
		var linked, ended atomic.Bool
		var running sync.WaitGroup
		running.Go(func() {
			o.forgetNodeCapacities(t.Context(), client, linked.Load)
			ended.Store(true)
		})
		for range 3 {
			provision()
			time.Sleep(2 * forgetEvery)
			synctest.Wait()
			if n := left(); n > 0 || ended.Load() {
				t.Fatalf("%d are left, it has ended: %v", n, ended.Load())
			}
		}
		provision()
		linked.Store(true)
		time.Sleep(forgetEvery)
		synctest.Wait()
		if n := left(); n > 0 || ended.Load() {
			t.Errorf("%d are left, it has ended: %v", n, ended.Load())
		}
		time.Sleep(forgetEvery)
		running.Wait()
	})
}
