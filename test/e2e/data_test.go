//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

func TestDataOutlivesThePod(t *testing.T) {
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

// TestBooksOutliveACrash is the story of examples/books: a process that crashes, in a container that comes back.
func TestBooksOutliveACrash(t *testing.T) {
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
	books := func(args string) string {
		ip := kubectl(t, "-n", ns, "get", "pods", "-l", "app=books", "-o", "jsonpath={.items[0].status.podIP}")
		port := kubectl(t, "-n", ns, "get", "service", "books", "-o", "jsonpath={.spec.ports[0].targetPort}")
		if _, err := strconv.Atoi(port); err != nil {
			port = kubectl(t, "-n", ns, "get", "deployment", "books", "-o",
				"jsonpath={.spec.template.spec.containers[0].ports[0].containerPort}")
		}
		return sh(t, ns, "client", fmt.Sprintf(strings.ReplaceAll(args, "URL", "http://%s:%s"), ip, port))
	}
	books(`wget -q -O- --post-data '{"title": "Dune", "publishedAt": "1965-08-01"}' --header 'Content-Type: application/json' URL/book`)
	if list := books("wget -q -O- URL/book"); !strings.Contains(list, "Dune") {
		t.Fatalf("the list is %s", list)
	}
	books(`printf 'PATCH /error HTTP/1.0\r\n\r\n' | nc $(echo URL | sed 's#http://##; s#:# #') || true`)
	eventually(t, readyTimeout, func() error {
		n := kubectl(t, "-n", ns, "get", "pods", "-l", "app=books", "-o", "jsonpath={.items[0].status.containerStatuses[0].restartCount}")
		if n == "0" {
			return fmt.Errorf("the container has not restarted")
		}
		return nil
	})
	kubectl(t, "-n", ns, "rollout", "status", "deployment/books", "--timeout=180s")
	eventually(t, readyTimeout, func() error {
		if list := books("wget -q -O- URL/ || true"); !strings.Contains(list, "Dune") {
			return fmt.Errorf("after the crash the list is %q", list)
		}
		return nil
	})
}

func TestDeleteLeavesNothingAndRetainKeeps(t *testing.T) {
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
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", mounts("data", "/data")))
	waitReady(t, ns, "writer")
	sh(t, ns, "writer", "echo seen > /data/file")
	machine := machineOf(t, ns, "writer")
	dir := volumesPath + "/" + volumeOf(t, ns, "data")
	if content, err := machine.Exec(t.Context(), "cat", dir+"/data/file"); err != nil || content != "seen\n" {
		t.Errorf("on the node the file holds %q, %v", content, err)
	}
	record, err := machine.Exec(t.Context(), "cat", dir+"/volume.json")
	if err != nil || !strings.Contains(record, ns) || !strings.Contains(record, `"data"`) {
		t.Errorf("the record does not say whose volume it is: %s, %v", record, err)
	}
	if mode, err := machine.Exec(t.Context(), "stat", "-c", "%a", cluster.DefaultDiskPath); err != nil || mode != "700\n" {
		t.Errorf("the pool's mode is %s, %v", mode, err)
	}
}
