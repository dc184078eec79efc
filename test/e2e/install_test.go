//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// values is the installation that the tests run on: every node has a disk for its pool, and must have it.
const values = `
image: {repository: localhost/csi-hostpath, tag: e2e, pullPolicy: Never}
config:
  pools:
    - name: default
      path: /var/lib/csi-hostpath/pools/default
      default: true
      requireMountpoint: true
    - name: fast
      path: /srv/fast
      optional: true
storageClasses:
  - name: csi-hostpath
    parameters: {type: DirectoryOrCreate}
  - name: csi-hostpath-file
    parameters: {type: FileOrCreate}
  - name: csi-hostpath-immediate
    volumeBindingMode: Immediate
  - name: csi-hostpath-retain
    reclaimPolicy: Retain
  - name: csi-hostpath-fast
    parameters: {pool: fast}
  - name: csi-hostpath-typo
    parameters: {tpye: FileOrCreate}
`

func install(ctx context.Context, set ...string) error {
	if _, err := testCluster.KubectlInput(ctx, strings.NewReader(
		"{apiVersion: v1, kind: Namespace, metadata: {name: "+namespace+", labels: {pod-security.kubernetes.io/enforce: privileged}}}",
	), "apply", "-f", "-"); err != nil {
		return err
	}
	args := []string{"upgrade", "--install", release, filepath.Join(root, "deploy/helm/csi-hostpath"), "--namespace", namespace,
		"--values", "-", "--wait", "--timeout", "3m"}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	return runHelm(ctx, values, args...)
}

func runHelm(ctx context.Context, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, *helm, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+testCluster.Kubeconfig())
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// TestUninstallKeepsDataAndReinstallFindsIt also shows that the plain manifests install: they bring the driver back.
func TestUninstallKeepsDataAndReinstallFindsIt(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", mounts("data", "/data")))
	waitReady(t, ns, "writer")
	sh(t, ns, "writer", "echo kept > /data/file && sync")
	node := nodeOf(t, ns, "writer")
	if err := runHelm(t.Context(), "", "uninstall", release, "--namespace", namespace, "--wait"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // whatever happened, the other tests need the installation of the chart
		_, _ = testCluster.Kubectl(context.Background(), "delete", "--ignore-not-found", "-f", plainManifests(t))
		if err := install(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if got := sh(t, ns, "writer", "cat /data/file"); got != "kept" {
		t.Errorf("a running pod reads %q while nothing is installed", got)
	}
	kubectl(t, "apply", "-f", plainManifests(t))
	kubectl(t, "-n", namespace, "rollout", "status", "daemonset/"+release, "--timeout=180s")
	deletePod(t, ns, "writer")
	apply(t, ns, pod("reader", mounts("data", "/data")))
	waitReady(t, ns, "reader")
	if got := sh(t, ns, "reader", "cat /data/file"); got != "kept" {
		t.Errorf("after the reinstallation a pod reads %q", got)
	}
	if got := nodeOf(t, ns, "reader"); got != node {
		t.Errorf("the pod is on %s, its volume on %s", got, node)
	}
}

// plainManifests is deploy/kubernetes with the image of the test.
func plainManifests(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "deploy/kubernetes/csi-hostpath.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	for i, line := range lines {
		if at := strings.Index(line, "image: "); at >= 0 && strings.Contains(line, "localhost/csi-hostpath") {
			lines[i] = line[:at] + "image: " + driverImage
		}
	}
	name := filepath.Join(t.TempDir(), "csi-hostpath.yaml")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestUpgradeDoesNotDisturbRunningPods changes the configuration, which restarts every driver, while a pod writes.
func TestUpgradeDoesNotDisturbRunningPods(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", mounts("data", "/data")))
	waitReady(t, ns, "writer")
	stop := startWriting(t, ns, "writer")
	before := driverPods(t)
	if err := install(t.Context(), "driver.logLevel=4"); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", namespace, "rollout", "status", "daemonset/"+release, "--timeout=180s")
	for name := range before {
		if _, same := driverPods(t)[name]; same {
			t.Errorf("driver pod %s was not replaced by the upgrade", name)
		}
	}
	apply(t, ns, claim("more", "csi-hostpath", "1Gi")+pod("after", mounts("more", "/data")))
	waitReady(t, ns, "after")
	stop()
	for _, node := range testCluster.Nodes() {
		if owners := lockOwners(t, node); len(owners) != 1 {
			t.Errorf("%s: the pool's lock is held by %v, want one process", node.Name(), owners)
		}
	}
}
