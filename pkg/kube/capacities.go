package kube

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Labels of what external-provisioner says about room, and who says it where it runs once for all
// nodes (external-provisioner pkg/capacity/capacity.go, cmd/csi-provisioner/csi-provisioner.go).
const (
	driverNameLabel  = "csi.storage.k8s.io/drivername"
	managedByLabel   = "csi.storage.k8s.io/managed-by"
	centralManagedBy = "external-provisioner"
)

// DeleteNodeCapacities deletes the CSIStorageCapacity objects that the provisioners of node
// deployment have made, each for its own node. In the central deployment nobody corrects them, and
// the scheduler believes whatever offers most room. Their owner is the DaemonSet, which both
// deployments have: so Kubernetes does not delete them. It returns how many there were.
func DeleteNodeCapacities(
	ctx context.Context, client kubernetes.Interface, namespace, driverName string,
) (found int, err error) {
	capacities := client.StorageV1().CSIStorageCapacities(namespace)
	list, err := capacities.List(ctx, metav1.ListOptions{
		LabelSelector: driverNameLabel + "=" + driverName + "," +
			managedByLabel + "," + managedByLabel + "!=" + centralManagedBy,
	})
	if err != nil {
		return 0, fmt.Errorf("list what nodes have said about their room: %w", err)
	}
	var errs []error
	for i := range list.Items {
		name := list.Items[i].Name
		err := capacities.Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete what a node has said about its room: %w", err))
		}
	}
	return len(list.Items), errors.Join(errs...)
}
