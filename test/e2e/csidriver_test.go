//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// TestPodWaitsWhereTheDriverIsNotRegistered stops the driver of one node as docs/operations.md
// does, and starts it again.
func TestPodWaitsWhereTheDriverIsNotRegistered(t *testing.T) {
	if got := kubectl(t, "get", "csidriver", driverName, "-o",
		"jsonpath={.spec.preventPodSchedulingIfMissing}"); got != "true" {
		t.Skip("Kubernetes before 1.37 has no preventPodSchedulingIfMissing")
	}
	quiet(t) // a pod that ends while there is no driver waits for it
	ns := newNamespace(t)
	node := testCluster.Nodes()[0]
	bound, fresh := mounts("bound", "/data"), mounts("fresh", "/data")
	bound.node, fresh.node = node.Name(), node.Name()
	apply(t, ns, claim("bound", "csi-hostpath", "64Mi")+pod("first", bound))
	waitReady(t, ns, "first")
	deletePod(t, ns, "first")

	const stopped = driverName + "/stopped"
	t.Cleanup(func() {
		kubectl(t, "label", "node", node.Name(), stopped+"-")
		waitDriversReady(t)
	})
	kubectl(t, "label", "node", node.Name(), stopped+"=")
	eventually(t, readyTimeout, func() error {
		if _, registered := registration(t, node); registered {
			return fmt.Errorf("the driver is still registered on %s", node.Name())
		}
		return nil
	})
	apply(t, ns, pod("second", bound)+claim("fresh", "csi-hostpath", "64Mi")+pod("third", fresh))
	eventually(t, readyTimeout, func() error {
		return describes(t, ns, "pod", "second", driverName+" CSI driver is not installed on the node")
	})
	eventually(t, readyTimeout, func() error {
		return describes(t, ns, "pod", "third", "FailedScheduling")
	})
	for _, name := range []string{"second", "third"} {
		if got := nodeOf(t, ns, name); got != "" {
			t.Errorf("pod %s went to %s, where the driver is not registered", name, got)
		}
	}
	kubectl(t, "label", "node", node.Name(), stopped+"-")
	waitReady(t, ns, "second", "third")
}

// registration is what the scheduler knows of the driver of a node: how many volumes it may have
// there, nil for any number.
func registration(t *testing.T, node *cluster.Node) (limit *int32, registered bool) {
	t.Helper()
	var object struct {
		Spec struct {
			Drivers []struct {
				Name        string
				Allocatable struct{ Count *int32 }
			}
		}
	}
	out := kubectl(t, "get", "csinode", node.Name(), "-o", "json")
	if err := json.Unmarshal([]byte(out), &object); err != nil {
		t.Fatal(err)
	}
	for _, d := range object.Spec.Drivers {
		if d.Name == driverName {
			return d.Allocatable.Count, true
		}
	}
	return nil, false
}

// TestSchedulerLearnsAChangedLimitOfVolumes changes maxVolumesPerNode. kubelet asks the driver anew
// without being restarted: when the driver registers again, and each
// nodeAllocatableUpdatePeriodSeconds.
func TestSchedulerLearnsAChangedLimitOfVolumes(t *testing.T) {
	const limit = 77
	kubelets := kubeletProcesses(t)
	t.Cleanup(func() {
		if err := install(context.Background()); err != nil {
			t.Error(err)
		}
	})
	set := fmt.Sprintf("config.maxVolumesPerNode=%d", limit)
	if err := install(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	for _, node := range testCluster.Nodes() {
		eventually(t, readyTimeout, func() error {
			got, _ := registration(t, node)
			if got == nil || *got != limit {
				return fmt.Errorf("%s may have %v volumes, want %d", node.Name(), got, limit)
			}
			return nil
		})
	}
	eventually(t, readyTimeout, func() error { return kubeletsAskAgain(t) })
	if now := kubeletProcesses(t); now != kubelets {
		t.Errorf("the kubelets were processes %s, now %s", kubelets, now)
	}
}

func kubeletProcesses(t *testing.T) string {
	t.Helper()
	var all []string
	for _, node := range testCluster.Nodes() {
		out, err := node.Exec(t.Context(), "pidof", "kubelet")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(out))
	}
	return strings.Join(all, ", ")
}

// kubeletsAskAgain is an error unless each driver was asked how many volumes it takes more often
// than once, which is when it registered.
func kubeletsAskAgain(t *testing.T) error {
	t.Helper()
	for name := range driverPods(t) {
		out := kubectl(t, "get", "--raw",
			"/api/v1/namespaces/"+namespace+"/pods/"+name+":9809/proxy/metrics")
		const asked = `grpc_server_handled_total{grpc_code="OK",grpc_method="NodeGetInfo",` +
			`grpc_service="csi.v1.Node",grpc_type="unary"}`
		if err := atLeast(out, asked, 2); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
