//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

func TestDataOutlivesThePod(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("first", mounts("data", "/data")))
	waitReady(t, ns, "first")
	if mode := sh(t, ns, "first", "stat -c '%a %u:%g' /data"); mode != "755 0:0" {
		t.Errorf("the volume is %s, want 755 0:0", mode)
	}
	sh(t, ns, "first", "echo written > /data/file")
	deletePod(t, ns, "first")
	apply(t, ns, pod("second", mounts("data", "/data")))
	waitReady(t, ns, "second")
	if got := sh(t, ns, "second", "cat /data/file"); got != "written" {
		t.Errorf("the second pod reads %q", got)
	}
}

// TestBooksOutliveACrash is the story of examples/books: a process that crashes, in a container
// that comes back.
func TestBooksOutliveACrash(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for _, name := range []string{"deployment.yaml", "service.yaml"} {
		content, err := os.ReadFile(filepath.Join(root, "examples/books", name))
		if err != nil {
			t.Fatal(err)
		}
		apply(t, ns, string(content))
	}
	kubectl(t, "-n", ns, "rollout", "status", "deployment/books", "--timeout=180s")
	apply(t, ns, pod("client", podSpec{}))
	waitReady(t, ns, "client")
	// Debian's static busybox crashes when it looks a port up, and with wget -T.
	ip := kubectl(t, "-n", ns, "get", "service", "books", "-o", "jsonpath={.spec.clusterIP}")
	books := func(command string) string {
		return sh(t, ns, "client", strings.ReplaceAll(command, "IP", ip))
	}
	eventually(t, readyTimeout, func() error { // kube-proxy may not have heard of the pod yet
		_, err := testCluster.Kubectl(t.Context(), "-n", ns, "exec", "client", "--", "timeout", "5",
			"wget", "-q", "-O-", "http://"+ip+":80/book")
		return err
	})
	books(`wget -q -O- --post-data '{"title": "Dune", "publishedAt": "1965-08-01"}' http://IP:80/book`)
	if list := books("wget -q -O- http://IP:80/book"); !strings.Contains(list, "Dune") {
		t.Fatalf("the list is %s", list)
	}
	books(`printf 'PATCH /error HTTP/1.0\r\n\r\n' | nc IP 80 || true`)
	eventually(t, readyTimeout, func() error {
		n := kubectl(t, "-n", ns, "get", "pods", "-l", "app=books", "-o",
			"jsonpath={.items[0].status.containerStatuses[0].restartCount}")
		if n == "0" {
			return fmt.Errorf("the container has not restarted")
		}
		return nil
	})
	kubectl(t, "-n", ns, "rollout", "status", "deployment/books", "--timeout=180s")
	eventually(t, readyTimeout, func() error {
		if list := books("timeout 5 wget -q -O- http://IP:80/ || true"); !strings.Contains(list, "Dune") {
			return fmt.Errorf("after the crash the list is %q", list)
		}
		return nil
	})
}

// TestForeignVolumeIDIsAnError: a PersistentVolume whose handle is another node's, as after a
// mistake with a restored backup, gives neither an empty volume nor a successful deletion.
func TestForeignVolumeIDIsAnError(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	here, there := testCluster.Nodes()[0], testCluster.Nodes()[1]
	p := mounts("data", "/data")
	p.node = here.Name()
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", p))
	waitReady(t, ns, "writer")
	sh(t, ns, "writer", "echo mine > /data/file; sync")
	v := volumeOf(t, ns, "data")
	handle := kubectl(t, "get", "pv", v, "-o", "jsonpath={.spec.csi.volumeHandle}")
	name := "foreign-" + ns
	t.Cleanup(func() {
		kubectl(t, "patch", "pv", name, "--type=merge", "-p",
			`{"metadata": {"finalizers": null}, "spec": {"persistentVolumeReclaimPolicy": "Retain"}}`)
		kubectl(t, "delete", "pv", name, "--timeout=60s")
	})
	apply(t, ns,
		foreignVolume(name, ns, handle, there.Name())+pod("reader", mounts("foreign", "/data")))
	eventually(t, readyTimeout, func() error { return describes(t, ns, "pod", "reader", handle[:12]) })
	eventually(t, readyTimeout,
		func() error { return describes(t, ns, "pod", "reader", "FailedMount") })
	deletePod(t, ns, "reader")
	kubectl(t, "-n", ns, "delete", "pvc", "foreign", "--timeout=180s")
	eventually(t, readyTimeout,
		func() error { return describes(t, ns, "pv", name, "VolumeFailedDelete") })
	if got := sh(t, ns, "writer", "cat /data/file"); got != "mine" {
		t.Errorf("the volume's owner reads %q", got)
	}
	if names := hostLs(t, there, volumesPath); slices.Contains(names, v) {
		t.Errorf("%s has made volume %s, which is another node's", there.Name(), v)
	}
}

func foreignVolume(name, ns, handle, node string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s, annotations: {pv.kubernetes.io/provisioned-by: %[5]s}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Delete
  storageClassName: csi-hostpath
  claimRef: {namespace: %[2]s, name: foreign}
  csi: {driver: %[5]s, volumeHandle: %[3]s}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: topology.%[5]s/node, operator: In, values: [%[4]s]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: foreign}
spec:
  storageClassName: csi-hostpath
  volumeName: %[1]s
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
`, name, ns, handle, node, driverName)
}

func TestDeleteLeavesNothingAndRetainKeeps(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("gone", "csi-hostpath", "1Gi")+claim("kept", "csi-hostpath-retain", "1Gi")+
		pod("writer", mounts("gone", "/gone", "kept", "/kept")))
	waitReady(t, ns, "writer")
	sh(t, ns, "writer", "mkdir -p /gone/a/b/c; echo x > /gone/a/b/c/file; echo kept > /kept/file")
	machine := machineOf(t, ns, "writer")
	gone, kept := volumeOf(t, ns, "gone"), volumeOf(t, ns, "kept")
	deletePod(t, ns, "writer")
	kubectl(t, "-n", ns, "delete", "pvc", "gone", "kept", "--timeout=180s")
	checkNothingLeft(t, gone)
	content, err := machine.Exec(t.Context(), "cat", volumesPath+"/"+kept+"/data/file")
	if err != nil || strings.TrimSpace(content) != "kept" {
		t.Errorf("the retained volume holds %q, %v", content, err)
	}
	// What an operator does in the end: the PersistentVolume is deleted through the driver.
	kubectl(t, "patch", "pv", kept, "-p", `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
	checkNothingLeft(t, kept)
}

func TestVolumeIsADirectoryOfTheNode(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", mounts("data", "/data")))
	waitReady(t, ns, "writer")
	sh(t, ns, "writer", "echo seen > /data/file")
	machine := machineOf(t, ns, "writer")
	dir := volumesPath + "/" + volumeOf(t, ns, "data")
	if content, err := machine.Exec(t.Context(), "cat", dir+"/data/file"); err != nil ||
		content != "seen\n" {
		t.Errorf("on the node the file holds %q, %v", content, err)
	}
	record, err := machine.Exec(t.Context(), "cat", dir+"/volume.json")
	if err != nil || !strings.Contains(record, ns) || !strings.Contains(record, `"data"`) {
		t.Errorf("the record does not say whose volume it is: %s, %v", record, err)
	}
	if mode, err := machine.Exec(t.Context(), "stat", "-c", "%a",
		cluster.DefaultDiskPath); err != nil ||
		mode != "700\n" {
		t.Errorf("the pool's mode is %s, %v", mode, err)
	}
}
