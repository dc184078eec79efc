//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// TestClaimSaysWhatIsWrongWithIt is what a user sees in `kubectl describe`.
func TestClaimSaysWhatIsWrongWithIt(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	class(t, "csi-hostpath-typo", "tpye", "FileOrCreate")
	apply(t, ns, claim("typo", "csi-hostpath-typo", "1Gi")+pod("typo", mounts("typo", "/data"))+
		claim("full", "csi-hostpath", "1Ti")+pod("full", mounts("full", "/data"))+
		claim("shared", "csi-hostpath", "1Gi", "ReadWriteMany")+pod("shared", mounts("shared", "/data"))+
		claim("impossible", "csi-hostpath", "2Ei")+claim("late", "csi-hostpath", "1Ti"))
	// What the scheduler does while it does not know yet that a node is full.
	for _, name := range []string{"impossible", "late"} {
		kubectl(t, "-n", ns, "annotate", "pvc", name,
			"volume.kubernetes.io/selected-node="+testCluster.Nodes()[0].Name())
	}
	for _, tc := range []struct {
		kind, name string
		want       []string
	}{
		{"pvc", "typo", []string{`unknown parameter "tpye"; known: `}},
		{"pvc", "shared", []string{"access mode is of several nodes", "use ReadWriteOnce"}},
		// No room anywhere: the scheduler knows the capacities, and does not ask the driver.
		{"pod", "full", []string{"3 node(s) did not have enough free storage"}},
		{"pvc", "full", []string{"waiting for pod full to be scheduled"}},
		{"pvc", "impossible", []string{"OutOfRange", "no volume can have more than 1152921504606846976"}},
		{"pvc", "late", []string{"ResourceExhausted", "1099511627776 bytes wanted", "available"}},
	} {
		for _, want := range tc.want {
			eventually(t, readyTimeout, func() error { return describes(t, ns, tc.kind, tc.name, want) })
		}
	}
	// What docs/troubleshooting.md advises: a class of the same name without the mistake. The claim
	// need not be made again.
	kubectl(t, "delete", "storageclass", "csi-hostpath-typo")
	class(t, "csi-hostpath-typo", "type", "FileOrCreate")
	waitReady(t, ns, "typo")
}

// TestMissingDiskIsNotReplacedByTheRootFilesystem boots a node without its disk.
func TestMissingDiskIsNotReplacedByTheRootFilesystem(t *testing.T) {
	ns := newNamespace(t)
	node := testCluster.Nodes()[2]
	if err := node.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := node.StartWithoutDisk(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Reboot(context.Background()); err != nil {
			t.Error(err)
		}
		waitDriversReady(t)
		eventually(t, readyTimeout, func() error {
			if free := capacities(t, "csi-hostpath"); len(free) != 3 || free[node.Name()] == 0 {
				return fmt.Errorf("the capacities are %v", free)
			}
			return nil
		})
	})
	eventually(t, readyTimeout, func() error {
		if free, ok := capacities(t, "csi-hostpath")[node.Name()]; !ok || free > 0 {
			return fmt.Errorf("%s is offered with %d bytes, %v", node.Name(), free, ok)
		}
		return nil
	})
	// The operator is told, in words and by the pod that is not ready.
	eventually(t, readyTimeout, func() error {
		for name, where := range driverPods(t) {
			if where == node.Name() {
				return logSays(t, name, "no filesystem is mounted there, and requireMountpoint is set")
			}
		}
		return fmt.Errorf("no driver runs on %s", node.Name())
	})
	stuck := mounts("stuck", "/data")
	stuck.node = node.Name()
	apply(t, ns, claim("works", "csi-hostpath", "1Gi")+pod("works", mounts("works", "/data"))+
		claim("stuck", "csi-hostpath", "1Gi")+pod("stuck", stuck))
	waitReady(t, ns, "works")
	if got := nodeOf(t, ns, "works"); got == node.Name() {
		t.Errorf("a pod with a volume came to %s, whose disk is missing", got)
	}
	if names := hostLs(t, node, cluster.DefaultDiskPath); len(names) != 0 {
		t.Errorf("on the root filesystem of %s there are %v", node.Name(), names)
	}
	if err := describes(t, ns, "pod", "stuck", "did not have enough free storage"); err != nil {
		t.Error(err)
	}
	if got := kubectl(
		t,
		"-n",
		ns,
		"get",
		"pod",
		"stuck",
		"-o",
		"jsonpath={.spec.nodeName}",
	); got != "" {
		t.Errorf("a pod with a volume was sent to %s, whose disk is missing", got)
	}
	deletePod(t, ns, "stuck")
}

// logSays is an error unless the log of the driver's container does.
func logSays(t *testing.T, name, want string) error {
	t.Helper()
	out, err := testCluster.Kubectl(t.Context(), "-n", namespace, "logs", name, "-c", "driver")
	if err == nil && !strings.Contains(out, want) {
		err = fmt.Errorf("the log of %s does not say %q", name, want)
	}
	return err
}

func TestMetricsShowEachVolumesUse(t *testing.T) {
	t.Parallel()
	const written = 64 << 20
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "dd if=/dev/urandom of=/data/file bs=1M count=64 2>/dev/null; sync")
	node := nodeOf(t, ns, "app")
	labels := fmt.Sprintf(`{namespace=%q,persistentvolumeclaim="data"}`, ns)
	eventually(t, readyTimeout, func() error {
		out := kubectl(t, "get", "--raw", "/api/v1/nodes/"+node+"/proxy/metrics")
		for name, least := range map[string]float64{
			"capacity_bytes": written, "available_bytes": 1, "used_bytes": written, "inodes": 0, "inodes_free": 0, "inodes_used": 0,
		} {
			if err := atLeast(out, "kubelet_volume_stats_"+name+labels, least); err != nil {
				return fmt.Errorf("kubelet of %s: %w", node, err)
			}
		}
		return nil
	})
	for name, where := range driverPods(t) {
		if where != node {
			continue
		}
		out := kubectl(t, "get", "--raw",
			"/api/v1/namespaces/"+namespace+"/pods/"+name+":9809/proxy/metrics")
		for series, least := range map[string]float64{
			`csi_hostpath_pool_ready{pool="default"}`:           1,
			`csi_hostpath_pool_committed_bytes{pool="default"}`: 1 << 30,
			`csi_hostpath_pool_available_bytes{pool="default"}`: 1,
			`csi_hostpath_pool_volumes{pool="default"}`:         1,
		} {
			if err := atLeast(out, series, least); err != nil {
				t.Errorf("the driver of %s: %v", node, err)
			}
		}
		want := `grpc_server_handled_total{grpc_code="OK",grpc_method="NodePublishVolume"`
		if !strings.Contains(out, want) {
			t.Errorf("the driver's metrics do not have %s", want)
		}
	}
}

// atLeast is an error unless the metrics have the series, with that value or more.
func atLeast(metrics, series string, least float64) error {
	_, rest, found := strings.Cut(metrics, "\n"+series+" ")
	if !found {
		return fmt.Errorf("there is no %s", series)
	}
	text, _, _ := strings.Cut(rest, "\n")
	value, err := strconv.ParseFloat(strings.Fields(text)[0], 64)
	if err == nil && value < least {
		err = fmt.Errorf("%s is %s, want at least %g", series, text, least)
	}
	return err
}
