//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

var upgrades = flag.Bool("upgrades", false,
	"run the tests of upgrades too, which build images of earlier versions: make test-upgrade")

// earlier are the versions from which the driver is upgraded, as long as there is no release.
var earlier = []struct{ commit, deployment string }{
	{"5edec9f", "central"}, // the first version that has the link
	{"795788b", "node"},    // the last one before it: it has no other deployment
}

// upgradeValues are understood by all versions.
const upgradeValues = `
image: {repository: localhost/csi-hostpath, pullPolicy: Never}
snapshotter: {enabled: true}
config:
  pools:
    - name: default
      path: /var/lib/csi-hostpath/pools/default
      requireMountpoint: true
storageClasses:
  - name: csi-hostpath
  - name: csi-hostpath-immediate
    volumeBindingMode: Immediate
`

// TestUpgradeFromAnEarlierVersionAndBackKeepsEverything begins with the chart and the image of an
// earlier commit. While the nodes are held back, controller and nodes have different versions, on
// the way there and on the way back; in each state claims, copies, growth and deletion work.
func TestUpgradeFromAnEarlierVersionAndBackKeepsEverything(t *testing.T) {
	if !*upgrades {
		t.Skip("without -upgrades")
	}
	for _, e := range earlier {
		t.Run(e.commit, func(t *testing.T) {
			old := checkOut(t, e.commit)
			old.central = e.deployment == "central"
			upgradeAndBack(t, old, installation{chart: chartOf(root), image: driverImage, central: true})
		})
	}
}

func upgradeAndBack(t *testing.T, old, current installation) {
	t.Helper()
	quiet(t)
	uninstall(t)
	old.upgrade(t, "--wait")
	ns := newNamespace(t)
	w := startWriters(t, ns)
	copies := w.snapshots(t)
	copiesOfOld := copies
	if !old.central {
		copiesOfOld = nil // it tries one node after the other, for minutes
	}
	checkWorks(t, ns, "old", copiesOfOld)

	release := holdDrivers(t)
	current.upgrade(t)
	waitImages(t, current, old)
	if old.central {
		checkWorks(t, ns, "new-controller", copies)
	}
	release()
	waitImages(t, current, current)
	checkWorks(t, ns, "new", copies)

	release = holdDrivers(t)
	runHelmHere(t, "", "rollback", "csi-hostpath", "1", "--namespace", namespace)
	waitImages(t, old, current)
	if old.central {
		checkWorks(t, ns, "old-controller", copies)
	}
	release()
	waitImages(t, old, old)
	checkWorks(t, ns, "old-again", copiesOfOld)

	current.upgrade(t, "--wait")
	waitImages(t, current, current)
	checkWorks(t, ns, "new-again", copies)
	w.check(t)
}

// installation is a chart with the image of the same version.
type installation struct {
	chart, image string
	central      bool
}

func chartOf(checkout string) string { return filepath.Join(checkout, "deploy/helm/csi-hostpath") }

// checkOut builds an earlier commit's image, and loads it into the nodes.
func checkOut(t *testing.T, commit string) installation {
	t.Helper()
	if err := exec.CommandContext(t.Context(), "git", "-C", root, "cat-file", "-e",
		commit+"^{commit}").Run(); err != nil {
		t.Skipf("this clone's history lacks %s", commit)
	}
	folder, image := t.TempDir(), "localhost/csi-hostpath:"+commit
	source := filepath.Join(folder, "source")
	script := `mkdir "$1" && git -C "$2" archive "$3" | tar -x -C "$1"`
	if out, err := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", script, "bash",
		source, root, commit).CombinedOutput(); err != nil {
		t.Fatalf("take %s out of the history: %v\n%s", commit, err, out)
	}
	output := filepath.Join(folder, "image.tar")
	if err := cluster.BuildImage(t.Context(), cluster.ImageBuild{
		Dockerfile: filepath.Join(source, "Dockerfile"),
		Context:    source,
		Args:       []string{"VERSION=" + commit},
		Name:       image,
		Output:     output,
		Progress:   t.Logf,
	}); err != nil {
		t.Fatal(err)
	}
	if err := testCluster.Load(t.Context(), output); err != nil {
		t.Fatal(err)
	}
	return installation{chart: chartOf(source), image: image}
}

// upgrade gives every version the sidecars of this one, because the nodes have no others.
func (i installation) upgrade(t *testing.T, flags ...string) {
	t.Helper()
	_, tag, _ := strings.Cut(i.image, ":")
	set := []string{"image.tag=" + tag}
	for _, sidecar := range []string{"provisioner", "resizer", "snapshotter"} {
		set = append(set, sidecar+".image.tag="+sidecarTag(t, sidecar))
	}
	if i.central {
		set = append(set, "deployment=central")
	}
	args := []string{
		"upgrade", "--install", "csi-hostpath", i.chart, "--namespace", namespace, "--values", "-",
		"--timeout", "5m", "--set", strings.Join(set, ","),
	}
	runHelmHere(t, upgradeValues, append(args, flags...)...)
}

// sidecarTag is the version of a sidecar in this version's chart.
func sidecarTag(t *testing.T, sidecar string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(chartOf(root), "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(content), "/csi-"+sidecar+"\n    tag: ")
	tag, _, found := strings.Cut(after, "\n")
	if !found {
		t.Fatalf("values.yaml does not say the tag of csi-%s", sidecar)
	}
	return tag
}

func runHelmHere(t *testing.T, stdin string, args ...string) {
	t.Helper()
	if err := runHelm(t.Context(), stdin, args...); err != nil {
		t.Fatal(err)
	}
}

// uninstall takes the installation of the other tests away until the test ends.
func uninstall(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		_ = runHelm(context.Background(), "", "uninstall", release, "--namespace", namespace, "--wait")
		if err := install(context.Background()); err != nil {
			t.Error(err)
		}
	})
	runHelmHere(t, "", "uninstall", release, "--namespace", namespace, "--wait")
}

// holdDrivers keeps the DaemonSet from replacing the nodes' pods until release is called.
func holdDrivers(t *testing.T) (release func()) {
	t.Helper()
	apply(t, namespace, `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: hold-drivers}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: csi-hostpath}}
    resourceRules:
      - {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [DELETE]}
  validations:
    - expression: >-
        oldObject.metadata.?ownerReferences.orValue([]).all(o, o.kind != 'DaemonSet')
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: hold-drivers}
spec: {policyName: hold-drivers, validationActions: [Deny]}
`)
	held := driversOf(t)[0]
	eventually(t, readyTimeout, func() error { // until the API server has read the policy
		_, err := testCluster.Kubectl(t.Context(), "-n", namespace, "delete", "pod", held.name,
			"--dry-run=server")
		if err == nil {
			return fmt.Errorf("pod %s can still be deleted", held.name)
		}
		return nil
	})
	release = func() {
		_, _ = testCluster.Kubectl(context.Background(), "delete", "--ignore-not-found",
			"validatingadmissionpolicies,validatingadmissionpolicybindings", "hold-drivers")
	}
	t.Cleanup(release)
	return release
}

// runningPod is a pod of the installation, by what counts here.
type runningPod struct {
	name, image string
	ready       bool
}

// driversOf are the pods of the DaemonSet, controllersOf those of the controller's Deployment.
func driversOf(t *testing.T) []runningPod {
	t.Helper()
	return podsOf(t, "!app.kubernetes.io/component", "driver")
}

func controllersOf(t *testing.T) []runningPod {
	t.Helper()
	return podsOf(t, "app.kubernetes.io/component=controller", "controller")
}

func podsOf(t *testing.T, selector, container string) (pods []runningPod) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct {
				Containers []struct{ Name, Image string }
			}
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	out := kubectl(t, "-n", namespace, "get", "pods", "-o", "json", "-l",
		"app.kubernetes.io/instance="+release+","+selector)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		p := runningPod{name: item.Metadata.Name}
		for _, c := range item.Spec.Containers {
			if c.Name == container {
				p.image = c.Image
			}
		}
		for _, c := range item.Status.Conditions {
			p.ready = p.ready || c.Type == "Ready" && c.Status == "True"
		}
		pods = append(pods, p)
	}
	return pods
}

// waitImages waits until all controllers and all drivers are ready, and of these versions.
func waitImages(t *testing.T, controller, driver installation) {
	t.Helper()
	var controllers int
	if controller.central {
		controllers = 2
	}
	eventually(t, 2*readyTimeout, func() error {
		if err := haveImage(controllersOf(t), controllers, controller.image); err != nil {
			return fmt.Errorf("controllers: %w", err)
		}
		if err := haveImage(driversOf(t), len(testCluster.Nodes()), driver.image); err != nil {
			return fmt.Errorf("drivers: %w", err)
		}
		return nil
	})
}

func haveImage(pods []runningPod, n int, image string) error {
	if len(pods) != n {
		return fmt.Errorf("%d pods, want %d: %v", len(pods), n, pods)
	}
	for _, p := range pods {
		if !p.ready || p.image != image {
			return fmt.Errorf("pod %s has image %s, ready: %t, want %s", p.name, p.image, p.ready, image)
		}
	}
	return nil
}

// TestManifestsOfTheOtherDeploymentKeepEverything changes from node deployment to central and back
// with nothing but kubectl, by the commands of docs/install.md.
func TestManifestsOfTheOtherDeploymentKeepEverything(t *testing.T) {
	if !*upgrades {
		t.Skip("without -upgrades")
	}
	quiet(t)
	uninstall(t)
	t.Cleanup(func() {
		for _, deployment := range []string{"central", "node"} {
			_, _ = testCluster.Kubectl(context.Background(), "delete", "--ignore-not-found", "--wait",
				"-k", kustomization(t, deployment))
		}
	})
	kubectl(t, "apply", "-k", kustomization(t, "node"))
	waitDriversReady(t)
	ns := newNamespace(t)
	w := startWriters(t, ns)
	checkWorks(t, ns, "first", w.clones())
	for _, to := range []string{"central", "node"} {
		folder := kustomization(t, to)
		cmd := exec.CommandContext(t.Context(), "bash", "-euxc", commandsToSwitch(t))
		cmd.Dir = folder
		cmd.Env = append(os.Environ(), "KUBECONFIG="+testCluster.Kubeconfig(),
			"PATH="+testCluster.Programs()+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		t.Logf("to %s:\n%s", to, out)
		if err != nil {
			t.Fatal(err)
		}
		kubectl(t, "-n", namespace, "rollout", "status", "daemonset/"+release, "--timeout=5m")
		waitCapacities(t, to)
		checkWorks(t, ns, to, w.clones())
		checkOnlyOf(t, folder)
	}
	w.check(t)
}

// kustomization is a folder as docs/install.md describes it, with one deployment's manifests.
func kustomization(t *testing.T, deployment string) string {
	t.Helper()
	name := map[string]string{
		"central": "csi-hostpath.yaml", "node": "csi-hostpath-node.yaml",
	}[deployment]
	content, err := os.ReadFile(filepath.Join(root, "deploy/kubernetes", name))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	files := map[string]string{"csi-hostpath.yaml": string(content), "kustomization.yaml": `
resources: [csi-hostpath.yaml]
images: [{name: localhost/csi-hostpath, newTag: e2e}]
`}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// commandsToSwitch are what docs/install.md tells users without Helm.
func commandsToSwitch(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/install.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "\nWithout Helm, first delete what only one of the files")
	_, after, _ = strings.Cut(after, "```sh\n")
	commands, _, found := strings.Cut(after, "```")
	if !found {
		t.Fatal("docs/install.md does not say how to change the deployment without Helm")
	}
	return commands
}

// checkOnlyOf fails if an object of the driver is there that the manifests do not have.
func checkOnlyOf(t *testing.T, folder string) {
	t.Helper()
	const kinds = "networkpolicies,poddisruptionbudgets,serviceaccounts,secrets,configmaps,roles," +
		"rolebindings,services,deployments,daemonsets,clusterroles,clusterrolebindings,csidrivers," +
		"storageclasses,validatingadmissionpolicies,validatingadmissionpolicybindings"
	want := strings.Fields(kubectl(t, "get", "-k", folder, "-o", "name"))
	there := kubectl(t, "get", kinds, "-n", namespace, "-o", "name",
		"-l", "app.kubernetes.io/instance="+release)
	for name := range strings.FieldsSeq(there) {
		if !slices.Contains(want, name) {
			t.Errorf("%s is left of the other deployment", name)
		}
	}
}
