//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestUpgradeToTheOtherDeploymentAndBackKeepsEverything changes between the two deployments of the
// chart while a pod writes on each node: volumes, snapshots, their IDs and running pods stay, and
// what was made before can be restored, grown and deleted after.
func TestUpgradeToTheOtherDeploymentAndBackKeepsEverything(t *testing.T) {
	quiet(t)
	ns := newNamespace(t)
	w := startWriters(t, ns)
	copies := w.snapshots(t)
	t.Cleanup(func() {
		if err := install(context.Background()); err != nil {
			t.Error(err)
		}
	})
	other := map[string]string{"node": "central", "central": "node"}[*deployment]
	for _, to := range []string{other, *deployment} {
		if err := install(t.Context(), "deployment="+to); err != nil {
			t.Fatal(err)
		}
		waitDriversReady(t)
		waitCapacities(t, to)
		checkWorks(t, ns, to, copies)
	}
	w.check(t)
}

// writers are pods that write all the time, one on each node, each to a volume of its own that has
// the pod's name.
type writers struct {
	ns      string
	names   []string
	handles map[string]bool
	stops   []func()
}

func startWriters(t *testing.T, ns string) *writers {
	t.Helper()
	w := &writers{ns: ns}
	var manifests strings.Builder
	for _, node := range testCluster.Nodes() {
		name := "on-" + node.Name()
		p := mounts(name, "/data")
		p.node = node.Name()
		manifests.WriteString(claim(name, "csi-hostpath", "64Mi") + pod(name, p))
		w.names = append(w.names, name)
	}
	apply(t, ns, manifests.String())
	waitReady(t, ns, w.names...)
	for _, name := range w.names {
		sh(t, ns, name, "echo before >/data/mark; sync")
		w.stops = append(w.stops, startWriting(t, ns, name))
	}
	w.handles = volumeHandles(t)
	return w
}

// copies is the claim of a name for a copy of the volume of a node's writer.
type copies func(name string, node int) string

// snapshots makes one of each volume, from which the copies are restored.
func (w *writers) snapshots(t *testing.T) copies {
	t.Helper()
	var manifests strings.Builder
	var names []string
	for _, name := range w.names {
		manifests.WriteString(snapshot("snap-"+name, name))
		names = append(names, "snap-"+name)
	}
	apply(t, w.ns, manifests.String())
	waitSnapshots(t, w.ns, names...)
	return func(name string, node int) string {
		return restored(name, followed, "64Mi", names[node])
	}
}

// clones makes the copies from the volumes themselves.
func (w *writers) clones() copies {
	return func(name string, node int) string {
		return cloned(name, "csi-hostpath", "64Mi", w.names[node])
	}
}

// check ends the writers, and fails if one missed a write, was restarted, or lost its volume's ID.
func (w *writers) check(t *testing.T) {
	t.Helper()
	for handle := range w.handles {
		if !volumeHandles(t)[handle] {
			t.Errorf("no volume has the ID %s any more", handle)
		}
	}
	for _, stop := range w.stops {
		stop()
	}
	for _, name := range w.names {
		restarts := kubectl(t, "-n", w.ns, "get", "pod", name, "-o",
			"jsonpath={.status.containerStatuses[0].restartCount}")
		if restarts != "0" {
			t.Errorf("pod %s was restarted %s times", name, restarts)
		}
	}
}

// checkWorks makes, copies, grows and deletes on every node. The state names what it makes. Nothing
// is copied without claimCopy.
func checkWorks(t *testing.T, ns, state string, claimCopy copies) {
	t.Helper()
	var manifests strings.Builder
	var fresh, copied []string
	for i, node := range testCluster.Nodes() {
		name := state + "-new-" + node.Name()
		p := mounts(name, "/data")
		p.node = node.Name()
		manifests.WriteString(claim(name, "csi-hostpath", "64Mi") + pod(name, p))
		fresh = append(fresh, name)
		if claimCopy != nil {
			name := state + "-copy-" + node.Name()
			manifests.WriteString(claimCopy(name, i) + pod(name, mounts(name, "/data")))
			copied = append(copied, name)
		}
	}
	all := slices.Concat(fresh, copied)
	apply(t, ns, manifests.String())
	waitReady(t, ns, all...)
	for _, name := range copied {
		if got := sh(t, ns, name, "cat /data/mark"); got != "before" {
			t.Errorf("%s has %q of its source", name, got)
		}
	}
	for _, name := range fresh {
		grow(t, ns, name, "96Mi")
	}
	for _, name := range fresh {
		eventually(t, readyTimeout, func() error { return hasCapacity(t, ns, name, "96Mi") })
	}
	var volumes []string
	for _, name := range all {
		volumes = append(volumes, volumeOf(t, ns, name))
	}
	deletePod(t, ns, all...)
	kubectl(t, append([]string{"-n", ns, "delete", "pvc", "--timeout=180s"}, all...)...)
	checkNothingLeft(t, volumes...)
}

// waitCapacities waits until each node's room is said once, by who says it in this deployment: the
// scheduler believes whoever says most.
func waitCapacities(t *testing.T, deployment string) {
	t.Helper()
	owner := map[string]string{
		"node": "DaemonSet/" + release, "central": "Deployment/" + release + "-controller",
	}[deployment]
	eventually(t, readyTimeout, func() error {
		var list struct {
			Items []struct {
				Metadata struct {
					OwnerReferences []struct{ Kind, Name string }
				}
				StorageClassName string
				NodeTopology     struct{ MatchLabels map[string]string }
			}
		}
		out := kubectl(t, "-n", namespace, "get", "csistoragecapacities", "-o", "json")
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		said := map[string]int{}
		for _, item := range list.Items {
			for _, o := range item.Metadata.OwnerReferences {
				if got := o.Kind + "/" + o.Name; got != owner {
					return fmt.Errorf("room is said by %s, want %s", got, owner)
				}
			}
			if item.StorageClassName == "csi-hostpath" {
				said[item.NodeTopology.MatchLabels["topology."+driverName+"/node"]]++
			}
		}
		for _, node := range testCluster.Nodes() {
			if said[node.Name()] != 1 {
				return fmt.Errorf("the room of %s is said %d times", node.Name(), said[node.Name()])
			}
		}
		return nil
	})
}

// volumeHandles are the IDs of all volumes.
func volumeHandles(t *testing.T) map[string]bool {
	t.Helper()
	handles := map[string]bool{}
	for handle := range strings.FieldsSeq(
		kubectl(t, "get", "pv", "-o", "jsonpath={.items[*].spec.csi.volumeHandle}"),
	) {
		handles[handle] = true
	}
	return handles
}
