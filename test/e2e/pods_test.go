//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const (
	// readyTimeout is generous: three nodes, their control plane and perhaps a compiler share two
	// cores.
	readyTimeout = 3 * time.Minute
	pollInterval = 250 * time.Millisecond
)

// notOfALabel is what the name of a namespace cannot have.
var notOfALabel = regexp.MustCompile(`[^a-z0-9]+`)

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := testCluster.Kubectl(context.WithoutCancel(t.Context()), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// newNamespace makes a namespace that is deleted, with its pods and volumes, when the test ends.
// The next test does not wait for that, unless it calls quiet; the run does in the end, and counts
// what is left (TestMain). Its name has the test's, so that logs show whose pods and claims they
// tell of.
func newNamespace(t *testing.T) string {
	t.Helper()
	name := strings.Trim(notOfALabel.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	ns := fmt.Sprintf("%.40s-%x", strings.TrimPrefix(name, "test"), time.Now().UnixMicro())
	kubectl(t, "create", "namespace", ns)
	t.Cleanup(func() {
		if t.Failed() { // before anything is gone
			t.Log(describe(ns))
			collectLogs(context.WithoutCancel(t.Context()), t.Name())
		}
		kubectl(t, "delete", "namespace", ns, "--wait=false", "--ignore-not-found")
	})
	return ns
}

// quiet waits until earlier tests' volumes are gone, for a test that counts the room or takes the
// driver away.
func quiet(t *testing.T) {
	t.Helper()
	eventually(t, readyTimeout, func() error { return leftovers(t.Context()) })
}

// leftovers is an error that names the volumes that the cluster, or a node, still has.
func leftovers(ctx context.Context) error {
	out, err := testCluster.Kubectl(ctx, "get", "pv", "-o", "name")
	if err != nil {
		return err
	}
	if out != "" {
		return fmt.Errorf("the cluster still has %s", strings.Join(strings.Fields(out), ", "))
	}
	for _, n := range testCluster.Nodes() {
		out, err := n.Exec(
			ctx,
			"sh",
			"-c",
			"cd "+cluster.DefaultDiskPath+" && ls -d volumes/* snapshots/* tmp/* trash/* 2>/dev/null; "+
				"grep kubernetes.io~csi/ /proc/mounts || true",
		)
		if err != nil {
			return err
		}
		if out != "" {
			return fmt.Errorf("%s still has %s", n.Name(), strings.Join(strings.Fields(out), ", "))
		}
	}
	return nil
}

// describes is an error unless kubectl describe, where users look, says what is wanted.
func describes(t *testing.T, ns, kind, name, want string) error {
	t.Helper()
	out := kubectl(t, "-n", ns, "describe", kind, name)
	if !strings.Contains(out, want) {
		return fmt.Errorf("%s %s does not say %q:\n%s", kind, name, want, out)
	}
	return nil
}

func describe(ns string) string {
	out, _ := testCluster.Kubectl(context.Background(), "-n", ns, "describe", "pods,pvc")
	return out
}

func apply(t *testing.T, ns, manifests string) {
	t.Helper()
	if _, err := testCluster.KubectlInput(
		t.Context(),
		strings.NewReader(manifests),
		"-n",
		ns,
		"apply",
		"-f",
		"-",
	); err != nil {
		t.Fatalf("%v\n%s", err, manifests)
	}
}

// class makes a StorageClass, also with parameters, given as pairs, that the chart would refuse; it
// goes with the test.
func class(t *testing.T, name string, parameters ...string) {
	t.Helper()
	t.Cleanup(func() { kubectl(t, "delete", "storageclass", name, "--ignore-not-found") })
	apply(t, "default", fmt.Sprintf(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %s}
provisioner: %s
volumeBindingMode: WaitForFirstConsumer
parameters: %s
`, name, driverName, flow(parameters...)))
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
	node                  string   // the scheduler's only choice
	boundTo               string   // the node, without asking the scheduler
	command               string
	hasOwnUsers           bool   // hostUsers: false
	runtimeClass          string // empty: the cluster's newest runc
	container             string // the container's securityContext
}

// mounts makes a pod mount claims, given as pairs of a name and a path.
func mounts(pairs ...string) podSpec {
	var p podSpec
	for i := 0; i+1 < len(pairs); i += 2 {
		p.volumes = append(p.volumes,
			fmt.Sprintf("{name: %s, persistentVolumeClaim: {claimName: %s}}", pairs[i], pairs[i]))
		p.volumeMounts = append(p.volumeMounts,
			fmt.Sprintf("{name: %s, mountPath: %s}", pairs[i], pairs[i+1]))
	}
	return p
}

func pod(name string, p podSpec) string {
	command := p.command
	if command == "" {
		command = "sleep 1000000"
	}
	command = "trap exit TERM; " + command + " & wait" // a PID 1 without a trap ignores SIGTERM
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
  nodeName: %q
  hostUsers: %t
  runtimeClassName: %s
  containers:
    - name: main
      image: %s
      command: [sh, -c, %q]
      securityContext: %s
      volumeMounts: [%s]
  volumes: [%s]
`, name, name, cmp.Or(p.security, "{}"), selector, p.boundTo, !p.hasOwnUsers,
		cmp.Or(p.runtimeClass, "null"), cluster.BusyboxImage, command, cmp.Or(p.container, "{}"),
		strings.Join(p.volumeMounts, ", "), strings.Join(p.volumes, ", "))
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
	kubectl(
		t,
		append([]string{"-n", ns, "delete", "pod", "--grace-period=1", "--timeout=180s"}, names...)...)
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

// startWriting has a pod append a line every tenth of a second, ten lines at least. What it returns
// stops that, and fails the test if a write failed.
func startWriting(t *testing.T, ns, name string) (stop func()) {
	t.Helper()
	sh(t, ns, name, `(i=0; while [ ! -e /tmp/stop ] || [ $i -lt 10 ]; do i=$((i+1))
		echo $i >>/data/log && sync /data/log || echo $i >>/tmp/failed
		usleep 100000; done; touch /tmp/stopped) >/dev/null 2>&1 &`)
	return func() {
		t.Helper()
		sh(t, ns, name, "touch /tmp/stop; while [ ! -e /tmp/stopped ]; do usleep 50000; done")
		if failed := sh(t, ns, name, "cat /tmp/failed 2>/dev/null || true"); failed != "" {
			t.Errorf("these writes failed: %s", failed)
		}
		if gap := sh(
			t,
			ns,
			name,
			`awk '$1 != NR {print "line " NR " is " $1; exit}' /data/log`,
		); gap != "" {
			t.Errorf("the log has a gap: %s", gap)
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
	out := kubectl(t, "-n", namespace, "get", "pods", "-l", "app.kubernetes.io/name=csi-hostpath",
		"-o", "json")
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

// lockOwners lists the drivers of the node that have locked the default pool, which is a lock on
// its directory.
func lockOwners(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	out, err := n.Exec(t.Context(), "sh", "-c",
		"stat -c %i "+cluster.DefaultDiskPath+"; cat /proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	inode, locks, _ := strings.Cut(out, "\n")
	var owners []string
	for line := range strings.Lines(locks) { // 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], ":"+inode) {
			continue
		}
		// Another filesystem can have an inode of this number.
		if name, err := n.Exec(t.Context(), "cat", "/proc/"+f[4]+"/comm"); err == nil &&
			name == "csi-hostpath\n" {
			owners = append(owners, f[4])
		}
	}
	return owners
}

// volumeOf is the directory that a claim's volume has in the pool.
func volumeOf(t *testing.T, ns, name string) string {
	t.Helper()
	return kubectl(t, "-n", ns, "get", "pvc", name, "-o", "jsonpath={.spec.volumeName}")
}

// checkNothingLeft waits until no node has a volume of these names, nor anything in tmp/ or trash/,
// nor a mount of them.
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
