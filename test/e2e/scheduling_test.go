//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

func TestStatefulSetSpreadsOverTheNodes(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 6
  serviceName: db
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {matchLabels: {app: db}}
      containers:
        - name: main
          image: %s
          command: [sh, -c, "trap exit TERM; hostname >> /data/names; sleep 1000000 & wait"]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        storageClassName: csi-hostpath
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 256Mi}}
`, cluster.BusyboxImage))
	kubectl(t, "-n", ns, "rollout", "status", "statefulset/db", "--timeout=300s")
	homes := make(map[string]string)
	where := make(map[string]int)
	for i := range 6 {
		name := fmt.Sprintf("db-%d", i)
		homes[name] = nodeOf(t, ns, name)
		where[homes[name]]++
	}
	for node, n := range where {
		if n != 2 {
			t.Errorf("%d of the pods are on %s, want two on each of three nodes", n, node)
		}
	}
	// All at once: each comes back to its own volume, so to its own node.
	kubectl(t, "-n", ns, "delete", "pods", "-l", "app=db", "--timeout=180s")
	kubectl(t, "-n", ns, "rollout", "status", "statefulset/db", "--timeout=300s")
	for name, home := range homes {
		if got := nodeOf(t, ns, name); got != home {
			t.Errorf("%s has come back on %s, its volume is on %s", name, got, home)
		}
		if got := sh(t, ns, name, "cat /data/names"); got != name+"\n"+name {
			t.Errorf("the volume of %s has %q, want its name of both starts", name, got)
		}
	}
}

func TestImmediateBindingBringsThePodToTheVolume(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath-immediate", "256Mi"))
	eventually(t, readyTimeout, func() error {
		if phase := kubectl(
			t,
			"-n",
			ns,
			"get",
			"pvc",
			"data",
			"-o",
			"jsonpath={.status.phase}",
		); phase != "Bound" {
			return fmt.Errorf("the claim is %s", phase)
		}
		return nil
	})
	v := volumeOf(t, ns, "data")
	affinity := kubectl(t, "get", "pv", v, "-o",
		"jsonpath={.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]}")
	apply(t, ns, pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	if node := nodeOf(t, ns, "app"); node != affinity {
		t.Errorf("the pod is on %s, the volume on %s", node, affinity)
	}
}

// TestFullNodeSendsThePodElsewhere takes nearly all the room of every node but one, and claims more
// than the full ones have left.
func TestFullNodeSendsThePodElsewhere(t *testing.T) {
	quiet(t)
	ns := newNamespace(t)
	var free map[string]int64
	eventually(t, readyTimeout, func() error {
		if free = capacities(t, "csi-hostpath"); len(free) != 3 {
			return fmt.Errorf("the capacities are %v", free)
		}
		return nil
	})
	nodes := testCluster.Nodes()
	for i, n := range nodes[:2] {
		filler := fmt.Sprintf("filler-%d", i)
		p := mounts(filler, "/data")
		p.node = n.Name()
		apply(t, ns,
			claim(filler, "csi-hostpath", strconv.FormatInt(free[n.Name()]-256<<20, 10))+pod(filler, p))
	}
	waitReady(t, ns, "filler-0", "filler-1")
	// The size that only the third node has; the scheduler knows it from the CSIStorageCapacity
	// objects, or learns it by being refused.
	apply(t, ns, claim("data", "csi-hostpath", "512Mi")+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	if node := nodeOf(t, ns, "app"); node != nodes[2].Name() {
		t.Errorf("the pod is on %s, and only %s has room", node, nodes[2].Name())
	}
}

// capacities reads the CSIStorageCapacity objects of a class: bytes by node.
func capacities(t *testing.T, class string) map[string]int64 {
	t.Helper()
	var list struct {
		Items []struct {
			StorageClassName string
			Capacity         string
			NodeTopology     struct{ MatchLabels map[string]string }
		}
	}
	if err := json.Unmarshal(
		[]byte(kubectl(t, "-n", namespace, "get", "csistoragecapacities", "-o", "json")),
		&list,
	); err != nil {
		t.Fatal(err)
	}
	bytes := make(map[string]int64)
	for _, item := range list.Items {
		if item.StorageClassName == class {
			bytes[item.NodeTopology.MatchLabels["topology."+driverName+"/node"]] = quantity(t, item.Capacity)
		}
	}
	return bytes
}

func quantity(t *testing.T, text string) int64 {
	t.Helper()
	factor := int64(1)
	for suffix, f := range map[string]int64{"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30} {
		if cut, ok := strings.CutSuffix(text, suffix); ok {
			text, factor = cut, f
		}
	}
	var n int64
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatalf("quantity %q: %v", text, err)
	}
	return n * factor
}

// TestPoolOfChosenNodesGetsThePodsOfItsClass makes the directory of the optional pool on one node.
// It stays, for nothing else uses it.
func TestPoolOfChosenNodesGetsThePodsOfItsClass(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	chosen := testCluster.Nodes()[1]
	if _, err := chosen.Exec(t.Context(), "mkdir", "-p", "/srv/fast"); err != nil {
		t.Fatal(err)
	}
	apply(t, ns, claim("data", "csi-hostpath-fast", "64Mi")+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	if node := nodeOf(t, ns, "app"); node != chosen.Name() {
		t.Errorf("the pod is on %s, the pool on %s", node, chosen.Name())
	}
	v := volumeOf(t, ns, "data")
	if names := hostLs(t, chosen, "/srv/fast/volumes"); len(names) != 1 || names[0] != v {
		t.Errorf("the pool has %v, want %s", names, v)
	}
	for node, bytes := range capacities(t, "csi-hostpath-fast") {
		if node != chosen.Name() && bytes > 0 {
			t.Errorf("%s offers %d bytes of a pool that it does not have", node, bytes)
		}
	}
	deletePod(t, ns, "app")
	kubectl(t, "-n", ns, "delete", "pvc", "data", "--timeout=180s")
	eventually(t, readyTimeout, func() error {
		if names := append(
			hostLs(t, chosen, "/srv/fast/volumes"),
			hostLs(t, chosen, "/srv/fast/trash")...); len(
			names,
		) != 0 {
			return fmt.Errorf("the pool still has %v", names)
		}
		return nil
	})
}
