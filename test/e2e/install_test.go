//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// values is the installation that the tests run on: every node has a disk for its pool, and must
// have it.
const values = `
image: {repository: localhost/csi-hostpath, tag: e2e, pullPolicy: Never}
# The scheduler's next look at a pool that has come or gone, which tests wait for.
provisioner: {capacityPollInterval: 5s}
# How often kubelet asks for the limit of volumes: the least that is allowed.
csiDriver: {nodeAllocatableUpdatePeriodSeconds: 10}
snapshotter: {enabled: true}
nodeGone: {after: 20s}
config:
  pools:
    - name: default
      path: /var/lib/csi-hostpath/pools/default
      default: true
      requireMountpoint: true
    - name: fast
      path: /srv/fast
      optional: true
  ioLimits: {cgroups: /sys/fs/cgroup}
  hostPaths:
    - {path: /srv/shared, inline: true}
    - {path: /srv/models, inline: true, readOnly: true}
    - {path: /srv/team, inline: true, namespaces: [kube-system]}
    - {path: /srv/closed}
    - {path: /srv/mapped, inline: true}
    - {path: /srv/null, inline: true, types: [CharDevice]}
    - {path: /srv/block, inline: true, types: [BlockDevice]}
storageClasses:
  - name: csi-hostpath
    parameters: {type: DirectoryOrCreate}
  - name: csi-hostpath-enforced
    parameters: {backing: enforced}
  - name: csi-hostpath-file
    parameters: {type: FileOrCreate}
  - name: csi-hostpath-immediate
    volumeBindingMode: Immediate
  - name: csi-hostpath-restore
    volumeBindingMode: Immediate
  - name: csi-hostpath-released
    nodeGone: release
  - name: csi-hostpath-retain
    reclaimPolicy: Retain
  - name: csi-hostpath-fast
    parameters: {pool: fast}
  - name: csi-hostpath-image
    parameters: {backing: image}
  - name: csi-hostpath-image-xfs
    parameters: {backing: image, csi.storage.k8s.io/fstype: xfs}
`

// onlyIn skips a test of the other deployment.
func onlyIn(t *testing.T, name string) {
	t.Helper()
	if *deployment != name {
		t.Skipf("deployment %s", *deployment)
	}
}

// install is the README's three commands. The label stands for the image that is loaded: under the
// same tag, a new one would not replace the driver of a cluster that was kept.
func install(ctx context.Context, set ...string) error {
	if _, err := testCluster.Kubectl(ctx, "get", "namespace", namespace); err != nil {
		if _, err := testCluster.Kubectl(ctx, "create", "namespace", namespace); err != nil {
			return err
		}
	}
	if _, err := testCluster.Kubectl(ctx, "label", "--overwrite", "namespace", namespace,
		"pod-security.kubernetes.io/enforce=privileged"); err != nil {
		return err
	}
	args := []string{
		"upgrade",
		"--install",
		release,
		filepath.Join(root, "deploy/helm/csi-hostpath"),
		"--namespace",
		namespace,
		"--values",
		"-",
		"--wait",
		"--timeout",
		"3m",
	}
	set = append([]string{
		"deployment=" + *deployment, "podLabels.e2e-image=" + imageMark,
		// The nodes share a machine, so the groups of their pods have different names.
		"config.ioLimits.podsGroup=" + testCluster.CGroup(),
	}, set...)
	if !slices.Contains(set, "deployment=node") {
		set = append(set, "snapshotter.groupSnapshots=true")
	}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	return runHelm(ctx, values, args...)
}

// TestSnapshotControllerOfTheChartIsAccepted renders what a cluster without snapshots would get.
// This one has both already.
func TestSnapshotControllerOfTheChartIsAccepted(t *testing.T) {
	t.Parallel()
	manifests := snapshotController(t, "--show-only", "templates/snapshotcrds.yaml")
	var out string
	// kubectl looks whether an object is there and then creates it. In between a parallel test may
	// create the policies.
	eventually(t, readyTimeout, func() (err error) {
		out, err = testCluster.KubectlInput(t.Context(), strings.NewReader(manifests), "apply",
			"--dry-run=server", "-f", "-")
		return err
	})
	for _, want := range []string{
		"customresourcedefinition.apiextensions.k8s.io/volumesnapshots.snapshot.storage.k8s.io configured",
		"deployment.apps/csi-hostpath-snapshots created",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the API server does not say %q but\n%s", want, out)
		}
	}
}

// snapshotController renders the chart's snapshot controller, and what more templates are named.
func snapshotController(t *testing.T, templates ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), *helm, append([]string{
		"template", release, filepath.Join(root, "deploy/helm/csi-hostpath"), "--namespace", namespace,
		"--set", "snapshotController.enabled=true,snapshotController.crds=true,deployment=" + *deployment,
		"--show-only", "templates/snapshotcontroller.yaml",
	}, templates...)...)
	manifests, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(manifests)
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

// TestUninstallKeepsDataAndReinstallFindsIt also shows that the plain manifests install: they bring
// the driver back.
func TestUninstallKeepsDataAndReinstallFindsIt(t *testing.T) {
	// a pod that ends while there is no driver would hold up the uninstallation's own tests
	quiet(t)
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", mounts("data", "/data"))+
		claim("other", "csi-hostpath", "1Gi")+pod("other", mounts("other", "/data")))
	waitReady(t, ns, "writer", "other")
	sh(t, ns, "writer", "echo kept > /data/file && sync")
	node, other := nodeOf(t, ns, "writer"), volumeOf(t, ns, "other")
	deletePod(t, ns, "other")
	if err := runHelm(
		t.Context(),
		"",
		"uninstall",
		release,
		"--namespace",
		namespace,
		"--wait",
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // whatever happened, the other tests need the installation of the chart
		_, _ = testCluster.Kubectl(context.Background(), "delete", "--ignore-not-found", "-f",
			plainManifests(t))
		if err := install(context.Background()); err != nil {
			t.Error(err)
		}
	})
	const ours = "csidrivers,storageclasses,clusterroles,clusterrolebindings,validatingadmissionpolicies"
	if left := kubectl(
		t,
		"get",
		ours,
		"-l",
		"app.kubernetes.io/name=csi-hostpath",
		"-o",
		"name",
	); left != "" {
		t.Errorf("the uninstallation left %s", left)
	}
	if got := sh(t, ns, "writer", "cat /data/file; echo more >> /data/file"); got != "kept" {
		t.Errorf("a running pod reads %q while nothing is installed", got)
	}
	// waits for its volume to be deleted by the next installation
	kubectl(t, "-n", ns, "delete", "pvc", "other", "--timeout=60s")

	kubectl(t, "apply", "-f", plainManifests(t))
	kubectl(t, "-n", namespace, "rollout", "status", "daemonset/"+release, "--timeout=180s")
	deletePod(t, ns, "writer")
	apply(
		t,
		ns,
		pod(
			"reader",
			mounts("data", "/data"),
		)+claim(
			"new",
			"csi-hostpath",
			"1Gi",
		)+pod(
			"new",
			mounts("new", "/data"),
		),
	)
	waitReady(t, ns, "reader", "new")
	if got := sh(t, ns, "reader", "cat /data/file"); got != "kept\nmore" {
		t.Errorf("after the reinstallation a pod reads %q", got)
	}
	if got := nodeOf(t, ns, "reader"); got != node {
		t.Errorf("the pod is on %s, its volume on %s", got, node)
	}
	checkNothingLeft(t, other)
}

// plainManifests is deploy/kubernetes with the image of the test.
func plainManifests(t *testing.T) string {
	t.Helper()
	file := "deploy/kubernetes/csi-hostpath.yaml"
	if *deployment == "node" {
		file = "deploy/kubernetes/csi-hostpath-node.yaml"
	}
	content, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	for i, line := range lines {
		if indent, image, found := strings.Cut(line, "image: "); found &&
			strings.Contains(image, "localhost/csi-hostpath") {
			lines[i] = indent + "image: " + driverImage
		}
	}
	name := filepath.Join(t.TempDir(), "csi-hostpath.yaml")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestUpgradeDoesNotDisturbRunningPods replaces every driver, one after the other, while a pod
// writes on each node.
func TestUpgradeDoesNotDisturbRunningPods(t *testing.T) {
	ns := newNamespace(t)
	var manifests strings.Builder
	var writers []string
	for _, node := range testCluster.Nodes() {
		name := "on-" + node.Name()
		p := mounts(name, "/data")
		p.node = node.Name()
		manifests.WriteString(claim(name, "csi-hostpath", "1Gi") + pod(name, p))
		writers = append(writers, name)
	}
	apply(t, ns, manifests.String())
	waitReady(t, ns, writers...)
	var stops []func()
	for _, name := range writers {
		stops = append(stops, startWriting(t, ns, name))
	}
	before := driverPods(t)
	if err := install(t.Context(), "podAnnotations.e2e-upgrade="+ns); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", namespace, "rollout", "status", "daemonset/"+release, "--timeout=180s")
	after := driverPods(t)
	for name := range before {
		if _, same := after[name]; same {
			t.Errorf("driver pod %s was not replaced by the upgrade", name)
		}
	}
	apply(t, ns, claim("more", "csi-hostpath", "1Gi")+pod("after", mounts("more", "/data")))
	waitReady(t, ns, "after")
	for _, stop := range stops {
		stop()
	}
	for _, node := range testCluster.Nodes() {
		if owners := lockOwners(t, node); len(owners) != 1 {
			t.Errorf("%s: the pool's lock is held by %v, want one process", node.Name(), owners)
		}
	}
}
