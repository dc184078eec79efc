//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestUpgradeToTheOtherDeploymentAndBackKeepsEverything changes between the two deployments of the
// chart while a pod writes on each node: volumes, snapshots, their IDs and running pods stay, and
// what was made before can be restored, grown and deleted after.
func TestUpgradeToTheOtherDeploymentAndBackKeepsEverything(t *testing.T) {
	quiet(t)
	ns := newNamespace(t)
	var manifests, snapshots strings.Builder
	var writers, names []string
	for _, node := range testCluster.Nodes() {
		name := "on-" + node.Name()
		p := mounts(name, "/data")
		p.node = node.Name()
		manifests.WriteString(claim(name, "csi-hostpath", "64Mi") + pod(name, p))
		snapshots.WriteString(snapshot("snap-"+name, name))
		writers, names = append(writers, name), append(names, "snap-"+name)
	}
	apply(t, ns, manifests.String())
	waitReady(t, ns, writers...)
	for _, name := range writers {
		sh(t, ns, name, "echo before >/data/mark; sync")
	}
	apply(t, ns, snapshots.String())
	waitSnapshots(t, ns, names...)
	var stops []func()
	for _, name := range writers {
		stops = append(stops, startWriting(t, ns, name))
	}
	handles := volumeHandles(t)
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
		checkWorks(t, ns, to, names)
	}
	for handle := range handles {
		if !volumeHandles(t)[handle] {
			t.Errorf("no volume has the ID %s any more", handle)
		}
	}
	for _, stop := range stops {
		stop()
	}
	for _, name := range writers {
		restarts := kubectl(t, "-n", ns, "get", "pod", name, "-o",
			"jsonpath={.status.containerStatuses[0].restartCount}")
		if restarts != "0" {
			t.Errorf("pod %s was restarted %s times", name, restarts)
		}
	}
}

// checkWorks makes, restores, grows and deletes on every node.
func checkWorks(t *testing.T, ns, deployment string, snapshots []string) {
	t.Helper()
	var manifests strings.Builder
	var pods, claims []string
	for i, node := range testCluster.Nodes() {
		fresh, copied := deployment+"-new-"+node.Name(), deployment+"-copy-"+node.Name()
		p := mounts(fresh, "/data")
		p.node = node.Name()
		manifests.WriteString(claim(fresh, "csi-hostpath", "64Mi") + pod(fresh, p) +
			restored(copied, followed, "64Mi", snapshots[i]) + pod(copied, mounts(copied, "/data")))
		pods = append(pods, fresh, copied)
		claims = append(claims, fresh, copied)
	}
	apply(t, ns, manifests.String())
	waitReady(t, ns, pods...)
	for _, node := range testCluster.Nodes() {
		copied := deployment + "-copy-" + node.Name()
		if got := sh(t, ns, copied, "cat /data/mark"); got != "before" {
			t.Errorf("deployment %s: %s has %q of its snapshot", deployment, copied, got)
		}
		grow(t, ns, deployment+"-new-"+node.Name(), "96Mi")
	}
	for _, node := range testCluster.Nodes() {
		fresh := deployment + "-new-" + node.Name()
		eventually(t, readyTimeout, func() error { return hasCapacity(t, ns, fresh, "96Mi") })
	}
	var volumes []string
	for _, name := range claims {
		volumes = append(volumes, volumeOf(t, ns, name))
	}
	deletePod(t, ns, pods...)
	kubectl(t, append([]string{"-n", ns, "delete", "pvc", "--timeout=180s"}, claims...)...)
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
