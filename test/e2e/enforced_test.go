//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// TestEnforcedSizeHoldsOnEachNode has one class on nodes whose pools enforce sizes, and on nodes
// whose pools only count them: no pod gets more than its claim, and a clone is what its source is.
func TestEnforcedSizeHoldsOnEachNode(t *testing.T) {
	t.Parallel()
	const class = "csi-hostpath-enforced"
	ns := newNamespace(t)
	var first, clones []string
	for _, n := range testCluster.Nodes() {
		name := "on-" + n.Name()
		first = append(first, name)
		apply(t, ns, enforcedPod(name, claim(name, class, "48Mi"), n.Name()))
	}
	waitReady(t, ns, first...)
	for _, name := range first {
		sh(t, ns, name, "echo kept >/data/file && sync")
		clones = append(clones, "clone-"+name)
		apply(t, ns, enforcedPod("clone-"+name, cloned("clone-"+name, class, "48Mi", name), ""))
	}
	waitReady(t, ns, clones...)
	for i, n := range testCluster.Nodes() {
		for _, name := range []string{first[i], clones[i]} {
			wantEnforced(t, ns, name, n)
		}
	}
	if err := describes(t, ns, "storageclass", class, "Sizes are enforced."); err != nil {
		t.Error(err)
	}
}

// enforcedPod is a pod with a claim of its own name at /data.
func enforcedPod(name, claim, node string) string {
	p := mounts(name, "/data")
	p.node = node
	return claim + pod(name, p)
}

// wantEnforced checks a pod of a claim of 48 MiB: where it is, what it has, and what it gets.
func wantEnforced(t *testing.T, ns, name string, n *cluster.Node) {
	t.Helper()
	if got := nodeOf(t, ns, name); got != n.Name() {
		t.Fatalf("%s is on node %s, want %s", name, got, n.Name())
	}
	if got := sh(t, ns, name, "cat /data/file"); got != "kept" {
		t.Errorf("%s has %q", name, got)
	}
	err := shError(t, ns, name, "dd if=/dev/zero of=/data/large bs=1M count=96 conv=fsync")
	if !isFull(err) {
		t.Errorf("%s writes 96 MiB: %v", name, err)
	}
	filesystem, err := n.Filesystem()
	if err != nil {
		t.Fatal(err)
	}
	want := "regular file"
	if filesystem == "btrfs" {
		want = "directory"
	}
	data := fmt.Sprintf("%s/%s/data", volumesPath, volumeOf(t, ns, name))
	out, err := n.Exec(t.Context(), "stat", "--format=%F", data)
	if got := strings.TrimSpace(out); err != nil || got != want {
		t.Errorf("on %s the data of %s is a %s, %v, want a %s", filesystem, name, got, err, want)
	}
	events := kubectl(t, "-n", ns, "get", "events", "--field-selector",
		"reason=SizeNotEnforced,involvedObject.name="+name, "-o", "name")
	if events != "" {
		t.Errorf("the owner of %s is told that its size is not enforced: %s", name, events)
	}
}
