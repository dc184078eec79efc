package main

import (
	"context"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
)

// forgetEvery is how often forgetNodeCapacities looks. While an upgrade from node deployment is
// under way, a node's provisioner makes its objects again.
const forgetEvery = 2 * time.Minute

// forgetNodeCapacities deletes what node deployment has left about the room of nodes, until nothing
// is left or the context ends. A node that is linked has no provisioner any more, so when all are,
// nobody makes these objects again.
func (o *serveOptions) forgetNodeCapacities(
	ctx context.Context, client kubernetes.Interface, allLinked func() bool,
) {
	ticker := time.NewTicker(forgetEvery)
	defer ticker.Stop()
	for {
		upgraded := allLinked()
		found, err := kube.DeleteNodeCapacities(ctx, client, o.kube.namespace, o.driverName)
		switch {
		case err == nil && found == 0 && upgraded:
			return
		case err != nil && ctx.Err() == nil:
			klog.FromContext(ctx).Error(err, "The scheduler may believe what node deployment has left")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
