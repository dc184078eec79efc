//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// goneTimeout is for what happens after several waits of Kubernetes: a pod of a deleted node goes
// after 40 s, and the lease of a controller on that node ends after a minute.
const goneTimeout = 2 * readyTimeout

// TestDeletedNodeLosesNothing deletes a node. A StatefulSet whose class gives its volumes up goes
// on elsewhere, another claim keeps its volume. When the node comes back, everything is on its
// disk.
func TestDeletedNodeLosesNothing(t *testing.T) {
	onlyIn(t, "central")
	quiet(t)
	ns := newNamespace(t)
	apply(t, ns, oneOfASet("csi-hostpath-released"))
	kubectl(t, "-n", ns, "rollout", "status", "statefulset/db", "--timeout=300s")
	machine := machineOf(t, ns, "db-0")
	kept := mounts("kept", "/data")
	kept.node = machine.Name()
	apply(t, ns, claim("kept", "csi-hostpath", "64Mi")+pod("kept", kept))
	waitReady(t, ns, "kept")
	sh(t, ns, "db-0", "echo old >/data/file; sync")
	sh(t, ns, "kept", "echo kept >/data/file; sync")
	old, keptVolume := volumeOf(t, ns, "data-db-0"), volumeOf(t, ns, "kept")
	handle := kubectl(t, "get", "pv", old, "-o", "jsonpath={.spec.csi.volumeHandle}")

	if err := machine.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "delete", "node", machine.Name())
	eventually(t, goneTimeout, func() error { return runsOnAnotherNode(t, ns, machine) })
	if got := sh(t, ns, "db-0", "ls /data"); got != "" {
		t.Errorf("the new volume has %q", got)
	}
	eventually(t, goneTimeout, func() error {
		if out := kubectl(t, "get", "pv", old, "--ignore-not-found", "-o", "name"); out != "" {
			return fmt.Errorf("%s is still there", out)
		}
		return describes(t, ns, "pvc", "kept", "The claim keeps the volume until the node is back")
	})
	if err := areBound(t, ns, "kept"); err != nil {
		t.Error(err)
	}

	if err := machine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := machine.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDriversReady(t)
	if names := hostLs(t, machine, volumesPath); !slices.Contains(names, old) ||
		!slices.Contains(names, keptVolume) {
		t.Errorf("the node has lost volumes: it has %q, not both of %s and %s", names, old, keptVolume)
	}
	apply(t, ns, pod("again", kept))
	waitReady(t, ns, "again")
	if got := sh(t, ns, "again", "cat /data/file"); got != "kept" {
		t.Errorf("the kept volume has %q", got)
	}
	checkOrphan(t, handle)
	// What an operator does who needs the data no more.
	apply(t, ns, foreignVolume("orphan", ns, handle, machine.Name()))
	eventually(t, readyTimeout, func() error { return areBound(t, ns, "foreign") })
	kubectl(t, "-n", ns, "delete", "pvc", "foreign", "--timeout=180s")
	checkNothingLeft(t, old)
}

// oneOfASet is a StatefulSet of one pod with a claim.
func oneOfASet(className string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: %s
          command: [sh, -c, "trap exit TERM; sleep 1000000 & wait"]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        storageClassName: %s
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 64Mi}}
`, cluster.BusyboxImage, className)
}

func runsOnAnotherNode(t *testing.T, ns string, before *cluster.Node) error {
	t.Helper()
	out, err := testCluster.Kubectl(t.Context(), "-n", ns, "get", "pod", "db-0", "-o",
		"jsonpath={.status.phase} {.spec.nodeName}")
	if err != nil {
		return err
	}
	if node, ok := strings.CutPrefix(out, "Running "); !ok || node == before.Name() {
		return fmt.Errorf("the pod of the StatefulSet is %q", out)
	}
	return nil
}

// checkOrphan waits until the controller names a volume that has no PersistentVolume. It
// starts again, so that it looks soon.
func checkOrphan(t *testing.T, handle string) {
	t.Helper()
	controllers := "deployment/" + release + "-controller"
	kubectl(t, "-n", namespace, "rollout", "restart", controllers)
	kubectl(t, "-n", namespace, "rollout", "status", controllers, "--timeout=300s")
	eventually(t, goneTimeout, func() error {
		out, err := testCluster.Kubectl(t.Context(), "-n", namespace, "logs", "-c", "controller",
			"--prefix", "-l", "app.kubernetes.io/component=controller", "--tail=-1")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if strings.Contains(line, "A volume has no PersistentVolume") &&
				strings.Contains(line, handle) {
				return nil
			}
		}
		return fmt.Errorf("no log names %s", handle)
	})
}
