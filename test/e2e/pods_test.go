//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const (
	// readyTimeout is generous: three nodes, their control plane and perhaps a compiler share two cores.
	readyTimeout = 3 * time.Minute
	pollInterval = 250 * time.Millisecond
)

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := testCluster.Kubectl(context.WithoutCancel(t.Context()), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// newNamespace makes a namespace that is deleted, with its pods and volumes, when the test ends.
func newNamespace(t *testing.T) string {
	t.Helper()
	ns := fmt.Sprintf("e2e-%x", time.Now().UnixNano())
	kubectl(t, "create", "namespace", ns)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(describe(ns))
		}
		kubectl(t, "-n", ns, "delete", "pods,statefulsets,deployments,pvc", "--all", "--grace-period=1", "--timeout=180s")
		kubectl(t, "delete", "namespace", ns, "--timeout=180s")
	})
	return ns
}

func describe(ns string) string {
	out, _ := testCluster.Kubectl(context.Background(), "-n", ns, "describe", "pods,pvc")
	return out
}

func apply(t *testing.T, ns, manifests string) {
	t.Helper()
	if _, err := testCluster.KubectlInput(t.Context(), strings.NewReader(manifests), "-n", ns, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, manifests)
	}
}

func claim(name, class, size string, options ...string) string {
	mode := "ReadWriteOnce"
	if len(options) > 0 {
		mode = options[0]
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  storageClassName: %s
  accessModes: [%s]
  resources: {requests: {storage: %s}}
`, name, class, mode, size)
}

// podSpec is what the tests vary of a pod; the zero value is a shell that sleeps.
type podSpec struct {
	volumes, volumeMounts []string // YAML flow mappings
	security              string   // a pod's securityContext
	node                  string
	command               string
}

// mounts mounts claims: name, path, name, path, …
func mounts(pairs ...string) podSpec {
	var p podSpec
	for i := 0; i+1 < len(pairs); i += 2 {
		p.volumes = append(p.volumes, fmt.Sprintf("{name: %s, persistentVolumeClaim: {claimName: %s}}", pairs[i], pairs[i]))
		p.volumeMounts = append(p.volumeMounts, fmt.Sprintf("{name: %s, mountPath: %s}", pairs[i], pairs[i+1]))
	}
	return p
}

func pod(name string, p podSpec) string {
	command := p.command
	if command == "" {
		command = "sleep 1000000"
	}
	security := p.security
	if security == "" {
		security = "{}"
	}
	selector := "{}"
	if p.node != "" {
		selector = "{kubernetes.io/hostname: " + p.node + "}"
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: %s
  nodeSelector: %s
  containers:
    - name: main
      image: %s
      command: [sh, -c, %q]
      volumeMounts: [%s]
  volumes: [%s]
`, name, name, security, selector, cluster.BusyboxImage, "trap exit TERM; "+command+" & wait", strings.Join(p.volumeMounts, ", "), strings.Join(p.volumes, ", "))
}

func waitReady(t *testing.T, ns string, names ...string) {
	t.Helper()
	args := []string{"-n", ns, "wait", "--for=condition=Ready", "--timeout=" + readyTimeout.String()}
	for _, name := range names {
		args = append(args, "pod/"+name)
	}
	if _, err := testCluster.Kubectl(t.Context(), args...); err != nil {
		t.Fatalf("%v\n%s", err, describe(ns))
	}
}

func deletePod(t *testing.T, ns string, names ...string) {
	t.Helper()
	kubectl(t, append([]string{"-n", ns, "delete", "pod", "--grace-period=1", "--timeout=180s"}, names...)...)
}

// sh runs a command in a pod and returns what it says.
func sh(t *testing.T, ns, name, command string) string {
	t.Helper()
	return kubectl(t, "-n", ns, "exec", name, "--", "sh", "-c", command)
}

// shError runs a command that must fail and returns the error.
func shError(t *testing.T, ns, name, command string) error {
	t.Helper()
	out, err := testCluster.Kubectl(t.Context(), "-n", ns, "exec", name, "--", "sh", "-c", command)
	if err == nil {
		t.Errorf("%s in pod %s succeeded, saying %q", command, name, out)
		return errors.New("none")
	}
	return err
}

func nodeOf(t *testing.T, ns, name string) string {
	t.Helper()
	return kubectl(t, "-n", ns, "get", "pod", name, "-o", "jsonpath={.spec.nodeName}")
}

func machineOf(t *testing.T, ns, name string) *cluster.Node {
	t.Helper()
	n, err := testCluster.NodeNamed(nodeOf(t, ns, name))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// eventually polls until the condition gives no error.
func eventually(t *testing.T, timeout time.Duration, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", timeout, err)
		}
		time.Sleep(pollInterval)
	}
}

// startWriting has a pod append a line every tenth of a second. What it returns stops that, and fails the test if a write failed.
func startWriting(t *testing.T, ns, name string) (stop func()) {
	t.Helper()
	sh(t, ns, name, `rm -f /data/stop /data/failed; (i=0; while [ ! -e /data/stop ]; do
		i=$((i+1)); echo $i >>/data/log && sync /data/log || echo $i >>/tmp/failed; usleep 100000; done) >/dev/null 2>&1 &`)
	return func() {
		t.Helper()
		sh(t, ns, name, "touch /data/stop; sleep 1")
		if failed := sh(t, ns, name, "cat /tmp/failed 2>/dev/null || true"); failed != "" {
			t.Errorf("these writes failed: %s", failed)
		}
		if out := sh(t, ns, name, `awk '$1 != NR {print "line " NR " is " $1; exit}' /data/log; wc -l </data/log`); strings.Contains(out, "line") {
			t.Errorf("the log has a gap: %s", out)
		}
	}
}

// driverPods maps the driver's pods to their nodes.
func driverPods(t *testing.T) map[string]string {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
		}
	}
	out := kubectl(t, "-n", namespace, "get", "pods", "-l", "app.kubernetes.io/name=csi-hostpath", "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	pods := make(map[string]string)
	for _, p := range list.Items {
		pods[p.Metadata.Name] = p.Spec.NodeName
	}
	return pods
}

func waitDriversReady(t *testing.T) {
	t.Helper()
	eventually(t, readyTimeout, func() error {
		out := kubectl(t, "-n", namespace, "get", "daemonset", release, "-o",
			"jsonpath={.status.numberReady}/{.status.desiredNumberScheduled}")
		if out != "3/3" {
			return fmt.Errorf("%s drivers are ready", out)
		}
		return nil
	})
}

// hostLs lists a directory of the node; an absent one is empty.
func hostLs(t *testing.T, n *cluster.Node, dir string) []string {
	t.Helper()
	path, err := n.HostPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// lockOwners lists the processes of the node that hold the lock of the default pool.
func lockOwners(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	out, err := n.Exec(t.Context(), "sh", "-c",
		`inode=$(stat -c %i `+cluster.DefaultDiskPath+`/lock); awk -v i=":$inode" '$2=="FLOCK" && index($6 "", i) && substr($6, length($6)-length(i)+1)==i {print $5}' /proc/locks`)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(out)
}

// volumeOf is the directory that a claim's volume has in the pool.
func volumeOf(t *testing.T, ns, name string) string {
	t.Helper()
	return kubectl(t, "-n", ns, "get", "pvc", name, "-o", "jsonpath={.spec.volumeName}")
}

// checkNothingLeft waits until no node has a volume of these names, nor anything in tmp/ or trash/, nor a mount of them.
func checkNothingLeft(t *testing.T, volumes ...string) {
	t.Helper()
	eventually(t, readyTimeout, func() error {
		for _, n := range testCluster.Nodes() {
			for _, dir := range []string{"volumes", "tmp", "trash"} {
				left := hostLs(t, n, cluster.DefaultDiskPath+"/"+dir)
				left = slices.DeleteFunc(left, func(name string) bool {
					return !slices.ContainsFunc(volumes, func(v string) bool { return strings.HasPrefix(name, v) })
				})
				if len(left) > 0 {
					return fmt.Errorf("%s still has %s/%v", n.Name(), dir, left)
				}
			}
			table, err := n.Exec(t.Context(), "cat", "/proc/mounts")
			if err != nil {
				return err
			}
			for _, v := range volumes {
				if strings.Contains(table, v) {
					return fmt.Errorf("%s still has a mount of %s", n.Name(), v)
				}
			}
		}
		return nil
	})
}
