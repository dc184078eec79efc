//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// TestClaimSaysWhatIsWrongWithIt is what a user sees in `kubectl describe pvc`.
func TestClaimSaysWhatIsWrongWithIt(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claim("typo", "csi-hostpath-typo", "1Gi")+pod("typo", mounts("typo", "/data"))+
		claim("huge", "csi-hostpath", "1Ei")+pod("huge", mounts("huge", "/data"))+
		claim("shared", "csi-hostpath", "1Gi", "ReadWriteMany")+pod("shared", mounts("shared", "/data")))
	for _, tc := range []struct{ kind, name, want string }{
		{"pvc", "typo", `unknown parameter "tpye"; known: `},
		{"pvc", "shared", "access mode is of several nodes"},
		{"pod", "huge", "did not have enough free storage"},
	} {
		eventually(t, readyTimeout, func() error {
			out := kubectl(t, "-n", ns, "describe", tc.kind, tc.name)
			if !strings.Contains(out, tc.want) {
				return fmt.Errorf("%s %s does not say %q:\n%s", tc.kind, tc.name, tc.want, out)
			}
			return nil
		})
	}
}

// TestNoRoomAnywhereSaysHowMuchThereIs: the scheduler knows no capacities for a claim that is bound at once, so the driver is asked.
func TestNoRoomAnywhereSaysHowMuchThereIs(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claim("huge", "csi-hostpath-immediate", "1Ei"))
	eventually(t, readyTimeout, func() error {
		out := kubectl(t, "-n", ns, "describe", "pvc", "huge")
		if !strings.Contains(out, "ResourceExhausted") || !strings.Contains(out, "available") {
			return fmt.Errorf("the claim says:\n%s", out)
		}
		return nil
	})
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
		if free, ok := capacities(t, "csi-hostpath")[node.Name()]; ok && free > 0 {
			return fmt.Errorf("%s is offered with %d bytes", node.Name(), free)
		}
		return nil
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
	deletePod(t, ns, "stuck")
}

func TestMetricsShowEachVolumesUse(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "dd if=/dev/zero of=/data/file bs=1M count=64 2>/dev/null; sync")
	node := nodeOf(t, ns, "app")
	eventually(t, readyTimeout, func() error {
		out := kubectl(t, "get", "--raw", "/api/v1/nodes/"+node+"/proxy/metrics")
		for _, name := range []string{"capacity_bytes", "available_bytes", "used_bytes", "inodes", "inodes_used"} {
			want := fmt.Sprintf(`kubelet_volume_stats_%s{namespace=%q,persistentvolumeclaim="data"}`, name, ns)
			if !strings.Contains(out, want) {
				return fmt.Errorf("kubelet of %s does not have %s", node, want)
			}
		}
		return nil
	})
	for name, where := range driverPods(t) {
		if where != node {
			continue
		}
		out := kubectl(t, "get", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+name+":9809/proxy/metrics")
		for _, want := range []string{`csi_hostpath_pool_ready{pool="default"} 1`, `csi_hostpath_pool_committed_bytes{pool="default"}`,
			`grpc_server_handled_total{grpc_code="OK",grpc_method="NodePublishVolume"`} {
			if !strings.Contains(out, want) {
				t.Errorf("the driver's metrics do not have %s", want)
			}
		}
	}
}

// TestServiceAccountCannot shows what whoever takes over a sidecar cannot do.
func TestServiceAccountCannot(t *testing.T) {
	account := "--as=system:serviceaccount:" + namespace + ":" + release
	for _, action := range [][]string{
		{"get", "secrets", "-A"}, {"list", "secrets", "-n", namespace}, {"create", "pods", "-n", namespace}, {"delete", "pods", "-A"},
		{"patch", "nodes"}, {"update", "nodes"}, {"create", "persistentvolumeclaims", "-A"}, {"delete", "persistentvolumeclaims", "-A"},
		{"create", "clusterrolebindings"}, {"impersonate", "users"}, {"create", "pods/exec", "-A"}, {"get", "configmaps", "-A"},
		{"update", "daemonsets", "-n", namespace}, {"create", "serviceaccounts/token", "-n", namespace}, {"create", "storageclasses"},
	} {
		out, _ := testCluster.Kubectl(t.Context(), append([]string{"auth", "can-i", account}, action...)...)
		if strings.TrimSpace(out) != "no" {
			t.Errorf("the service account can %v: %q", action, out)
		}
	}
}
