package kube

import (
	"slices"
	"testing"

	storage "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestOnlyCapacitiesOfNodeDeploymentAreDeleted(t *testing.T) {
	capacity := func(namespace, name, driver, managedBy string) *storage.CSIStorageCapacity {
		labels := map[string]string{driverNameLabel: driver}
		if managedBy != "" {
			labels[managedByLabel] = managedBy
		}
		return &storage.CSIStorageCapacity{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		}
	}
	client := fake.NewClientset(
		capacity("csi", "node-1", "hostpath.csi.local", "external-provisioner-node-1"),
		capacity("csi", "hashed", "hostpath.csi.local", "external-provisioner-5d8f-a-long-name"),
		capacity("csi", "central", "hostpath.csi.local", "external-provisioner"),
		capacity("csi", "by-hand", "hostpath.csi.local", ""),
		capacity("csi", "other", "other.example.com", "external-provisioner-node-1"),
		capacity("elsewhere", "node-1", "hostpath.csi.local", "external-provisioner-node-1"),
	)
	for _, want := range []int{2, 0} {
		found, err := DeleteNodeCapacities(t.Context(), client, "csi", "hostpath.csi.local")
		if err != nil || found != want {
			t.Fatalf("%d found, %v, want %d", found, err, want)
		}
	}
	list, err := client.StorageV1().CSIStorageCapacities("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, item := range list.Items {
		left = append(left, item.Namespace+"/"+item.Name)
	}
	slices.Sort(left)
	want := []string{"csi/by-hand", "csi/central", "csi/other", "elsewhere/node-1"}
	if !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}
