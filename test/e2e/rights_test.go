//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTakenOverSidecarCannot shows what whoever takes over a sidecar can not do, with the token
// that the sidecar has.
func TestTakenOverSidecarCannot(t *testing.T) {
	sidecar := asServiceAccount(t, boundTo(t, testCluster.Nodes()[0].Name())...)
	canI := func(action ...string) string {
		out, _ := sidecar("", append([]string{"auth", "can-i"}, action...)...)
		return strings.TrimSpace(out)
	}
	for _, action := range [][]string{
		{"get", "secrets", "-A"},
		{"list", "secrets", "-n", namespace},
		{"create", "pods", "-n", namespace},
		{"delete", "pods", "-A"},
		{"list", "pods", "-A"},
		{"get", "pods", "-A"},
		{"get", "nodes"},
		{"patch", "nodes"},
		{"update", "nodes"},
		{"create", "persistentvolumeclaims", "-A"},
		{"delete", "persistentvolumeclaims", "-A"},
		{"patch", "persistentvolumeclaims", "-A"},
		{"create", "clusterrolebindings"},
		{"impersonate", "users"},
		{"create", "pods/exec", "-A"},
		{"get", "configmaps", "-A"},
		{"update", "daemonsets", "-n", namespace},
		{"create", "serviceaccounts/token", "-n", namespace},
		{"create", "storageclasses"},
		{"update", "csidrivers"},
		{"create", "csistoragecapacities", "-n", "default"},
		{"update", "leases", "-n", "kube-system"},
		{"create", "volumesnapshots.snapshot.storage.k8s.io", "-A"},
		{"update", "volumesnapshots.snapshot.storage.k8s.io", "-A"},
		{"create", "volumesnapshotcontents.snapshot.storage.k8s.io"},
		{"delete", "volumesnapshotcontents.snapshot.storage.k8s.io"},
		{"*", "*", "-A"},
	} {
		if answer := canI(action...); answer != "no" {
			t.Errorf("the sidecar can %v: %q", action, answer)
		}
	}
	if answer := canI("list", "persistentvolumeclaims", "-A"); answer != "yes" {
		t.Fatalf("the token is not the sidecar's: can it list claims? %q", answer)
	}
}

// TestTakenOverNodeCannotTouchOthersVolumes: what RBAC cannot tell apart, the admission policies
// do.
func TestTakenOverNodeCannotTouchOthersVolumes(t *testing.T) {
	ns := newNamespace(t)
	here, there := testCluster.Nodes()[0].Name(), testCluster.Nodes()[1].Name()
	for name, node := range map[string]string{"here": here, "there": there} {
		p := mounts(name, "/data")
		p.node = node
		apply(t, ns, claim(name, "csi-hostpath", "1Mi")+pod(name, p))
	}
	apply(t, ns, claim("foreign", "of-another-driver", "1Mi"))
	waitReady(t, ns, "here", "there")
	apply(t, ns, snapshot("here", "here")+snapshot("there", "there"))
	waitSnapshots(t, ns, "here", "there")
	sidecar := asServiceAccount(t, boundTo(t, here)...)
	unbound := asServiceAccount(t)

	const onlyThatNode = "may only change volumes of that node"
	deleteThere := []string{"delete", "pv", volumeOf(t, ns, "there"), "--wait=false"}
	refused(t, sidecar, onlyThatNode, "", deleteThere...)
	refused(t, unbound, "does not say for which node", "", deleteThere...)
	refused(t, sidecar, "may only change volumes of "+driverName, rootVolume, "create",
		"--validate=false", "-f", "-")
	refused(t, sidecar, onlyThatNode, strings.ReplaceAll(rootVolume, "hostPath: {path: /}",
		"csi: {driver: "+driverName+", volumeHandle: x}"), "create", "--validate=false", "-f", "-")
	for name, want := range map[string]string{
		"there": "may not take a claim from another node", "foreign": "may only mark claims of " + driverName,
	} {
		refused(t, sidecar, want, claimJSON(t, ns, name), "replace", "--raw", claimPath(ns, name), "-f",
			"-")
	}

	// The resizer raises the sizes of all nodes' volumes, and takes back what it has raised:
	// nothing else of them changes.
	bound, anybody := patcher(t, boundTo(t, here)...), patcher(t)
	pv, status := "/api/v1/persistentvolumes/"+volumeOf(t, ns,
		"there"), claimPath(ns, "there")+"/status"
	const larger = `{"spec": {"capacity": {"storage": "2Mi"}}, "metadata": {"annotations": {` + sizeBefore + `: "1Mi"}}}`
	for _, tc := range []struct {
		patch      patch
		path, body string
		want       string
	}{
		{bound, pv, `{"spec": {"capacity": {"storage": "1Ki"}}}`, onlyThatNode},
		{bound, pv, `{"spec": {"capacity": {"storage": "2Mi"}, "persistentVolumeReclaimPolicy": "Retain"}}`, onlyThatNode},
		{bound, pv, `{"spec": {"capacity": {"storage": "2Mi"}, "claimRef": {"name": "mine"}}}`, onlyThatNode},
		{bound, pv, `{"spec": {"capacity": {"storage": "2Mi"}}, "metadata": {"finalizers": null}}`, onlyThatNode},
		{bound, pv, `{"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}}}`, onlyThatNode},
		{bound, pv, `{"spec": {"capacity": {"storage": "2Mi"}}, "metadata": {"labels": {"x": "y"}}}`, onlyThatNode},
		{bound, pv, `{"metadata": {"annotations": {` + sizeBefore + `: "1Ki"}}}`, onlyThatNode},
		{anybody, pv, larger, "does not say for which node"},
		{bound, pv, larger, ""},
		{bound, pv, `{"metadata": {"annotations": {` + sizeBefore + `: "1Ki"}}}`, onlyThatNode},
		{bound, pv, `{"spec": {"capacity": {"storage": "1Ki"}}}`, onlyThatNode},
		{bound, pv, `{"spec": {"capacity": {"storage": "1Mi"}}}`, ""},
		{bound, pv, `{"metadata": {"annotations": {` + sizeBefore + `: null}}}`, ""},
		{bound, status, `{"status": {"phase": "Lost"}}`, "may not take a claim from another node"},
		{bound, status, `{"status": {"capacity": {"storage": "1Gi"}}}`, "may not take a claim from another node"},
		{bound, status, `{"metadata": {"annotations": {"x": "y"}}}`, "may not take a claim from another node"},
		{bound, status, `{"status": {"allocatedResources": {"storage": "1Mi"}}}`, ""},
		{bound, claimPath(ns, "foreign") + "/status", `{"status": {"allocatedResources": {"storage": "1Mi"}}}`, "may only mark claims of"},
		{bound, contentPath(t, ns, "there"), `{"metadata": {"finalizers": null}}`, "may only change snapshots of that node"},
		{bound, contentPath(t, ns, "there") + "/status", `{"status": {"readyToUse": false}}`, "may only change snapshots of that node"},
		{bound, contentPath(t, ns, "here"), `{"spec": {"deletionPolicy": "Retain"}}`, "may only say how snapshots of"},
		{bound, contentPath(t, ns, "here"), `{"metadata": {"annotations": {"x": "y"}}}`, ""},
	} {
		if got := tc.patch(tc.path, tc.body); tc.want == "" && got != "" ||
			!strings.Contains(got, tc.want) {
			t.Errorf("patching %s with %s says %q, want %q", tc.path, tc.body, got, tc.want)
		}
	}

	// And what it must be able to do: what lies on its own node.
	for _, allowed := range []struct{ stdin, args string }{
		{"", "delete pv " + volumeOf(t, ns, "here") + " --dry-run=server"},
		{claimJSON(t, ns, "here"), "replace --raw " + claimPath(ns, "here") + " -f -"},
	} {
		if _, err := sidecar(allowed.stdin, strings.Fields(allowed.args)...); err != nil {
			t.Errorf("%s on its own node: %v", allowed.args, err)
		}
	}
}

// sizeBefore is the annotation, in quotes, in which the resizer keeps a volume's size of before it
// began to grow.
const sizeBefore = `"volume.alpha.kubernetes.io/pre-resize-capacity"`

// rootVolume would give its claim the root directory of any node.
const rootVolume = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-root}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /}
`

type asUser func(stdin string, args ...string) (string, error)

func refused(t *testing.T, user asUser, want, stdin string, args ...string) {
	t.Helper()
	out, err := user(stdin, args...)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("kubectl %v: %q, %v; want an error that says %q", args, out, err, want)
	}
}

func claimPath(ns, name string) string {
	return "/api/v1/namespaces/" + ns + "/persistentvolumeclaims/" + name
}

// contentPath is where the API server has what a snapshot is bound to.
func contentPath(t *testing.T, ns, name string) string {
	t.Helper()
	content := kubectl(t, "-n", ns, "get", "volumesnapshot", name, "-o",
		"jsonpath={.status.boundVolumeSnapshotContentName}")
	return "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/" + content
}

// claimJSON is a claim with a mark on it: what the provisioner writes when it gives a claim back to
// the scheduler.
func claimJSON(t *testing.T, ns, name string) string {
	t.Helper()
	return kubectl(t, "-n", ns, "annotate", "pvc", name, "e2e=mark", "--dry-run=client", "-o", "json")
}

// boundTo are the flags that make a token the one of a node's driver pod, as kubelet mounts it
// there.
func boundTo(t *testing.T, node string) []string {
	t.Helper()
	for name, where := range driverPods(t) {
		if where == node {
			uid := kubectl(t, "-n", namespace, "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
			return []string{
				"--bound-object-kind=Pod",
				"--bound-object-name=" + name,
				"--bound-object-uid=" + uid,
			}
		}
	}
	t.Fatalf("no driver runs on %s", node)
	return nil
}

// identity is how the API server is reached, and by whom.
type identity struct{ server, authority, token string }

// serviceAccount has a token of the driver's service account.
func serviceAccount(t *testing.T, bound ...string) identity {
	t.Helper()
	view := func(what string) string {
		return kubectl(t, "config", "view", "--raw", "--minify", "-o",
			"jsonpath={.clusters[0].cluster."+what+"}")
	}
	return identity{
		server: view("server"), authority: view("certificate-authority-data"),
		token: kubectl(t, append([]string{"-n", namespace, "create", "token", release}, bound...)...),
	}
}

// patch tries a merge patch, and returns the API server's refusal, or nothing. kubectl would have
// to be able to get the object as well.
type patch func(path, body string) string

func patcher(t *testing.T, bound ...string) patch {
	t.Helper()
	it := serviceAccount(t, bound...)
	authority, err := base64.StdEncoding.DecodeString(it.authority)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		},
	}
	return func(path, body string) string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch,
			it.server+path+"?dryRun=All", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+it.token)
		request.Header.Set("Content-Type", "application/merge-patch+json")
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode == http.StatusOK {
			return ""
		}
		return string(answer)
	}
}

// asServiceAccount returns a kubectl that has a token of the driver's service account, and nothing
// else.
func asServiceAccount(t *testing.T, bound ...string) asUser {
	t.Helper()
	it := serviceAccount(t, bound...)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	content := fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: {server: %q, certificate-authority-data: %q}}]
users: [{name: it, user: {token: %q}}]
`, it.server, it.authority, it.token)
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(stdin string, args ...string) (string, error) {
		return testCluster.KubectlInput(
			t.Context(),
			strings.NewReader(stdin),
			append([]string{"--kubeconfig=" + kubeconfig}, args...)...)
	}
}
