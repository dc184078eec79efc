//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestSourceDecidesWhereAClaimGoesAtTheFirstTry restores and clones on each node, with the default
// class, which waits for its first consumer. No call reaches a wrong node.
func TestSourceDecidesWhereAClaimGoesAtTheFirstTry(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	var sources, snapshots, copies, pods strings.Builder
	var writers, names, claims []string
	for _, node := range testCluster.Nodes() {
		name := node.Name()
		p := mounts("data-"+name, "/data")
		p.node = name
		sources.WriteString(claim("data-"+name, "csi-hostpath", "64Mi") + pod("writer-"+name, p))
		snapshots.WriteString(snapshot("snap-"+name, "data-"+name))
		restore, clone := "restored-"+name, "cloned-"+name
		copies.WriteString(restored(restore, "csi-hostpath", "64Mi", "snap-"+name) +
			cloned(clone, "csi-hostpath", "64Mi", "data-"+name))
		pods.WriteString(pod(restore, mounts(restore, "/data")) + pod(clone, mounts(clone, "/data")))
		writers, names = append(writers, "writer-"+name), append(names, "snap-"+name)
		claims = append(claims, restore, clone)
	}
	apply(t, ns, sources.String())
	waitReady(t, ns, writers...)
	for _, node := range testCluster.Nodes() {
		sh(t, ns, "writer-"+node.Name(), "echo "+node.Name()+" >/data/name; sync")
	}
	apply(t, ns, snapshots.String())
	waitSnapshots(t, ns, names...)
	apply(t, ns, copies.String())
	eventually(t, readyTimeout, func() error { return areBound(t, ns, claims...) })
	for _, name := range claims {
		// Each try has the event Provisioning, and each that fails has ProvisioningFailed.
		failed := kubectl(t, "-n", ns, "get", "events", "-o", "jsonpath={.items[*].message}",
			"--field-selector", "reason=ProvisioningFailed,involvedObject.name="+name)
		if failed != "" {
			t.Errorf("%s was not made at the first try: %s", name, failed)
		}
	}
	apply(t, ns, pods.String())
	waitReady(t, ns, claims...)
	for _, name := range claims {
		node := name[strings.Index(name, "-")+1:]
		if got := nodeOf(t, ns, name); got != node {
			t.Errorf("%s runs on %s, its source is on %s", name, got, node)
		}
		if got := sh(t, ns, name, "cat /data/name"); got != node {
			t.Errorf("%s has %q of its source", name, got)
		}
	}
}

func areBound(t *testing.T, ns string, claims ...string) error {
	t.Helper()
	for _, name := range claims {
		phase := kubectl(t, "-n", ns, "get", "pvc", name, "-o", "jsonpath={.status.phase}")
		if phase != "Bound" {
			return fmt.Errorf("claim %s is %s", name, phase)
		}
	}
	return nil
}

// TestPodThatCannotFollowItsSourceIsToldWhy has a pod that may run on every node but the source's.
func TestPodThatCannotFollowItsSourceIsToldWhy(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "64Mi")+pod("writer", mounts("data", "/data")))
	waitReady(t, ns, "writer")
	source := nodeOf(t, ns, "writer")
	kubectl(t, "cordon", source)
	t.Cleanup(func() { kubectl(t, "uncordon", source) })
	apply(t, ns, cloned("copy", "csi-hostpath", "64Mi", "data")+pod("copy", mounts("copy", "/data")))
	eventually(t, readyTimeout, func() error {
		return describes(t, ns, "pvc", "copy", "PersistentVolumeClaim data is on node "+source)
	})
	if err := describes(t, ns, "pvc", "copy", "the node is cordoned"); err != nil {
		t.Error(err)
	}
	kubectl(t, "uncordon", source)
	waitReady(t, ns, "copy")
}
