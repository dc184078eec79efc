//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// snapshot is a VolumeSnapshot of a claim.
func snapshot(name, claim string) string {
	return fmt.Sprintf(`
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec:
  volumeSnapshotClassName: csi-hostpath
  source: {persistentVolumeClaimName: %s}
`, name, claim)
}

// restored is a claim that begins with what a snapshot has.
func restored(name, class, size, snapshot string) string {
	return claim(name, class, size) +
		"  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: " + snapshot + "}\n"
}

// cloned is a claim that begins with what another one has.
func cloned(name, class, size, source string) string {
	return claim(name, class,
		size) + "  dataSource: {kind: PersistentVolumeClaim, name: " + source + "}\n"
}

// followed is a class with Immediate binding, whose volumes are made where their sources are also
// without the placer. placement_test.go has the class that waits for its first consumer.
const followed = "csi-hostpath-immediate"

func waitSnapshots(t *testing.T, ns string, names ...string) {
	t.Helper()
	for _, name := range names {
		eventually(t, readyTimeout, func() error {
			ready := kubectl(t, "-n", ns, "get", "volumesnapshot", name, "-o",
				"jsonpath={.status.readyToUse} {.status.error.message}")
			if !strings.HasPrefix(ready, "true") {
				return fmt.Errorf("snapshot %s is ready: %q", name, ready)
			}
			return nil
		})
	}
}

// startLog has a pod append numbers with their checksums, each durable before the next.
func startLog(t *testing.T, ns, name string) {
	t.Helper()
	sh(
		t,
		ns,
		name,
		`(i=0; while :; do i=$((i+1)); echo "$i $(echo $i | sha256sum)" >>/data/log; sync /data/log
		usleep 20000
		done) >/dev/null 2>&1 &`,
	)
}

// logLines counts the lines of a log that startLog wrote; one that is not whole, or out of its
// order, fails the test.
func logLines(t *testing.T, ns, name string) int {
	t.Helper()
	out := sh(t, ns, name, `n=0; while read -r i sum rest; do n=$((n+1))
		[ "$i $sum" = "$n $(echo $n | sha256sum | cut -d' ' -f1)" ] || { echo "line $n is $i $sum"; exit; }
		done </data/log; echo $n`)
	n, err := strconv.Atoi(out)
	if err != nil {
		t.Errorf("the log of %s: %s", name, out)
	}
	return n
}

// TestSnapshotsAndClonesOfVolumesThatAreWritten takes one of each on every filesystem, while a pod
// writes, and looks at what they have. Nobody says where the new pods are to run.
func TestSnapshotsAndClonesOfVolumesThatAreWritten(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	var sources, copies, snapshots strings.Builder
	var writers, readers, names []string
	for _, node := range testCluster.Nodes() {
		name := node.Name()
		p := mounts("data-"+name, "/data")
		p.node = name
		sources.WriteString(claim("data-"+name, "csi-hostpath", "64Mi") + pod("writer-"+name, p))
		snapshots.WriteString(snapshot("snap-"+name, "data-"+name))
		copies.WriteString(
			restored("restored-"+name, followed, "128Mi",
				"snap-"+name) + cloned("cloned-"+name, followed, "64Mi", "data-"+name) +
				pod(
					"restored-"+name,
					mounts("restored-"+name, "/data"),
				) + pod(
				"cloned-"+name,
				mounts("cloned-"+name, "/data"),
			),
		)
		writers, names = append(writers, "writer-"+name), append(names, "snap-"+name)
		readers = append(readers, "restored-"+name, "cloned-"+name)
	}
	apply(t, ns, sources.String())
	waitReady(t, ns, writers...)
	before := make(map[string]int)
	for _, name := range writers {
		startLog(t, ns, name)
	}
	for _, node := range testCluster.Nodes() {
		eventually(t, readyTimeout, func() error {
			if before[node.Name()] = logLines(t, ns, "writer-"+node.Name()); before[node.Name()] < 20 {
				return fmt.Errorf("the log has %d lines", before[node.Name()])
			}
			return nil
		})
	}
	apply(t, ns, snapshots.String())
	waitSnapshots(t, ns, names...)
	apply(t, ns, copies.String())
	waitReady(t, ns, readers...)
	for _, node := range testCluster.Nodes() {
		now := logLines(t, ns, "writer-"+node.Name())
		for _, name := range []string{"restored-" + node.Name(), "cloned-" + node.Name()} {
			if got := nodeOf(t, ns, name); got != node.Name() {
				t.Errorf("%s runs on %s, its source is on %s", name, got, node.Name())
			}
			if lines := logLines(t, ns, name); lines < before[node.Name()] || lines > now {
				t.Errorf("%s has %d lines; its source had %d before, and has %d now", name, lines,
					before[node.Name()], now)
			}
			sh(t, ns, name, "echo mine >/data/log; sync")
		}
		if logLines(t, ns, "writer-"+node.Name()) < now {
			t.Errorf("the copies are not independent of their source on %s", node.Name())
		}
	}
	// What the source's size would not hold.
	sh(t, ns, "restored-"+nodeWith(t, "btrfs").Name(),
		"dd if=/dev/urandom of=/data/file bs=1M count=96 conv=fsync")

	// A snapshot outlives its volume.
	deletePod(t, ns, writers...)
	kubectl(t, append([]string{"-n", ns, "delete", "pvc", "--timeout=180s"}, claimsOf("data-")...)...)
	again := "snap-" + nodeWith(t, "xfs").Name()
	apply(
		t,
		ns,
		restored(
			"again",
			followed,
			"64Mi",
			again,
		)+pod(
			"again",
			mounts("again", "/data"),
		)+restored(
			"small",
			followed,
			"1Mi",
			again,
		),
	)
	waitReady(t, ns, "again")
	if lines := logLines(t, ns, "again"); lines < before[nodeWith(t, "xfs").Name()] {
		t.Errorf("a snapshot without its volume has %d lines", lines)
	}
	eventually(t, readyTimeout,
		func() error { return describes(t, ns, "pvc", "small", "is less than the size") })
}

// claimsOf are the names of one claim on each node.
func claimsOf(prefix string) (names []string) {
	for _, node := range testCluster.Nodes() {
		names = append(names, prefix+node.Name())
	}
	return names
}

// TestSnapshotExampleDoesWhatItSays applies the examples that docs/snapshots.md tells of, as they
// are.
func TestSnapshotExampleDoesWhatItSays(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	t.Cleanup(
		func() { kubectl(t, "delete", "volumesnapshotclass", "csi-hostpath-keep", "--ignore-not-found") },
	)
	apply(t, ns, example(t, "directory.yaml"))
	waitReady(t, ns, "directory")
	eventually(t, readyTimeout, func() error {
		_, err := testCluster.Kubectl(t.Context(), "-n", ns, "exec", "directory", "--", "test", "-s",
			"/data/starts")
		return err
	})
	apply(t, ns, example(t, "snapshot.yaml"))
	waitSnapshots(t, ns, "directory-monday")
	copies := []string{"directory-restored", "directory-clone"}
	for _, name := range copies {
		apply(t, ns, pod(name, mounts(name, "/data")))
	}
	waitReady(t, ns, copies...)
	want := sh(t, ns, "directory", "cat /data/starts")
	for _, name := range copies {
		if got := sh(t, ns, name, "cat /data/starts"); got != want {
			t.Errorf("%s has %q, its source %q", name, got, want)
		}
		if got, source := nodeOf(t, ns, name), nodeOf(t, ns, "directory"); got != source {
			t.Errorf("%s runs on %s, its source is on %s", name, got, source)
		}
	}
}

func example(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestFileVolumeHasSnapshots(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("conf", "csi-hostpath-file", "1Mi")+pod("app", mounts("conf", "/etc/app.conf")))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "echo colour=blue >/etc/app.conf; sync")
	apply(t, ns, snapshot("snap", "conf"))
	waitSnapshots(t, ns, "snap")
	sh(t, ns, "app", "echo colour=red >/etc/app.conf; sync")
	old := mounts("old", "/etc/app.conf")
	old.node = nodeOf(t, ns, "app")
	apply(
		t,
		ns,
		restored(
			"old",
			"csi-hostpath-file",
			"1Mi",
			"snap",
		)+pod(
			"old",
			old,
		)+restored(
			"mixed",
			followed,
			"1Mi",
			"snap",
		),
	)
	waitReady(t, ns, "old")
	if got := sh(t, ns, "old", "cat /etc/app.conf"); got != "colour=blue" {
		t.Errorf("the restored file has %q", got)
	}
	// A file is no directory: refused before anything is copied.
	eventually(t, readyTimeout,
		func() error { return describes(t, ns, "pvc", "mixed", "code = InvalidArgument") })
}

// TestSnapshotWithoutItsObjectsIsReadyAndRestored keeps a snapshot whose objects are deleted, as in
// another cluster, and writes the objects by hand, as docs/snapshots.md says: in the central
// deployment without any label.
func TestSnapshotWithoutItsObjectsIsReadyAndRestored(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "64Mi")+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "echo monday >/data/day; sync")
	node := nodeOf(t, ns, "app")
	apply(t, ns, snapshot("made", "data"))
	waitSnapshots(t, ns, "made")
	made := contentOf(t, ns, "made")
	handle := kubectl(t, "get", "volumesnapshotcontent", made, "-o",
		"jsonpath={.status.snapshotHandle}")
	kubectl(t, "patch", "volumesnapshotcontent", made, "--type=merge", "-p",
		`{"spec": {"deletionPolicy": "Retain"}}`)
	kubectl(t, "-n", ns, "delete", "volumesnapshot", "made", "--timeout=180s")
	kubectl(t, "delete", "volumesnapshotcontent", made, "--timeout=180s")
	sh(t, ns, "app", "echo tuesday >/data/day; sync")

	labels := "{}"
	if *deployment == "node" {
		labels = "{snapshot.storage.kubernetes.io/managed-by: " + node + "}"
	}
	apply(t, ns, writtenSnapshot(ns, handle, labels))
	waitSnapshots(t, ns, "monday")
	size := kubectl(t, "-n", ns, "get", "volumesnapshot", "monday", "-o",
		"jsonpath={.status.restoreSize}")
	if size != "64Mi" {
		t.Errorf("the snapshot has the size %q", size)
	}
	apply(t, ns, restored("copy", "csi-hostpath", "64Mi", "monday")+pod("copy", mounts("copy", "/data")))
	waitReady(t, ns, "copy")
	if got := sh(t, ns, "copy", "cat /data/day"); got != "monday" {
		t.Errorf("the copy has %q", got)
	}
	if got := nodeOf(t, ns, "copy"); got != node {
		t.Errorf("the copy is on %s, its snapshot on %s", got, node)
	}
	// Whoever wants it no more.
	kubectl(t, "patch", "volumesnapshotcontent", ns, "--type=merge", "-p",
		`{"spec": {"deletionPolicy": "Delete"}}`)
	kubectl(t, "-n", ns, "delete", "volumesnapshot", "monday", "--timeout=180s")
	machine := machineOf(t, ns, "app")
	eventually(t, readyTimeout, func() error {
		_, name, _ := strings.Cut(handle, "-")
		if slices.Contains(hostLs(t, machine, cluster.DefaultDiskPath+"/snapshots"), name[len("s-"):]) {
			return fmt.Errorf("the pool still has snapshot %s", handle)
		}
		return nil
	})
}

// contentOf is the name of what a snapshot is bound to.
func contentOf(t *testing.T, ns, name string) string {
	t.Helper()
	return kubectl(t, "-n", ns, "get", "volumesnapshot", name, "-o",
		"jsonpath={.status.boundVolumeSnapshotContentName}")
}

// writtenSnapshot are both objects of a snapshot that exists; the content has the namespace's name.
func writtenSnapshot(ns, handle, labels string) string {
	return fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: %[1]s, labels: %[3]s}
spec:
  driver: %[4]s
  deletionPolicy: Retain
  source: {snapshotHandle: %[2]s}
  volumeSnapshotRef: {name: monday, namespace: %[1]s}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: monday}
spec:
  volumeSnapshotClassName: csi-hostpath
  source: {volumeSnapshotContentName: %[1]s}
`, ns, handle, labels, driverName)
}
