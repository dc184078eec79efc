//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// TestTakenOverSidecarCannot shows what whoever takes over a sidecar can not do, with the token
// that the sidecar has.
func TestTakenOverSidecarCannot(t *testing.T) {
	onlyIn(t, "node")
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

// TestEveryRightOfATakenOverNodeIsBounded tries, for every right that the driver's service account
// has, what the token of one node can do to the objects of another one, of other drivers, and to
// those of its own that others act upon.
func TestEveryRightOfATakenOverNodeIsBounded(t *testing.T) {
	onlyIn(t, "node")
	w := takeOver(t)
	unbound := requester(t, release)
	unboundCannot := func(t *testing.T, a attempt) {
		t.Helper()
		// A token that says no node may change nothing at all.
		if status, answer := unbound(a); a.method != http.MethodGet && status/100 == 2 {
			t.Errorf("%s, %s, with a token of no node: %d %s", a.right, a.what, status, answer)
		}
	}
	tryRights(t, release, requester(t, release, boundTo(t, w.here)...), map[string][]attempt{
		"new volumes": w.createVolumes(), "volumes": w.changeVolumes(), "claims": w.changeClaims(),
		"snapshots": w.changeContents(), "capacities": w.changeCapacities(),
		"events": w.changeEvents(), "reads": w.reads(), "none": w.notGranted(),
	}, unboundCannot)
}

// TestEveryRightOfATakenOverPlacerIsBounded tries, for every right that the service account of the
// placer and the resizer has, what whoever takes over their node can do.
func TestEveryRightOfATakenOverPlacerIsBounded(t *testing.T) {
	onlyIn(t, "node")
	w := takeOver(t)
	w.pod = placerPod(t)
	tryRights(t, placerAccount, requester(t, placerAccount, boundToPod(t, w.pod)...),
		map[string][]attempt{
			"sizes": w.changeSizes(), "growth": w.tellGrowth(), "placements": w.placeClaims(),
			"events": w.changePlacersEvents(), "leases": w.changeLeases(),
			"reads": w.readsOfThePlacer(), "none": w.notGrantedToThePlacer(),
		}, func(*testing.T, attempt) {})
}

// tryRights makes the attempts of an account, and checks that each of its rights was tried.
func tryRights(
	t *testing.T, account string, send func(attempt) (int, string), attempts map[string][]attempt,
	also func(*testing.T, attempt),
) {
	t.Helper()
	tried := map[string]bool{}
	var sum outcome
	for name, list := range attempts {
		t.Run(name, func(t *testing.T) {
			for _, a := range list {
				tried[a.right] = true
				sum.try(t, send, a)
				also(t, a)
			}
		})
	}
	t.Log(&sum)
	rights := rightsOf(t, account)
	for _, right := range rights {
		if !tried[right] {
			t.Errorf("nobody has tried what the token of %s can do with the right to %s", account, right)
		}
	}
	for right := range tried {
		if right != "none" && !slices.Contains(rights, right) {
			t.Errorf("no role has the right to %s", right)
		}
	}
}

// TestTakenOverNodeHasNoRights: what whoever takes over a node of the central deployment has is a
// token that the API server does not take, of an account without rights.
func TestTakenOverNodeHasNoRights(t *testing.T) {
	t.Parallel()
	onlyIn(t, "central")
	node := testCluster.Nodes()[0]
	mounted, err := node.Exec(t.Context(), "sh", "-c",
		"cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/controller/token")
	if err != nil {
		t.Fatal(err)
	}
	it := serviceAccount(t, release)
	it.token = strings.TrimSpace(mounted)
	whoAmI := attempt{
		right: "none", what: "ask who I am", method: http.MethodPost,
		path: "/apis/authentication.k8s.io/v1/selfsubjectreviews",
		body: `{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}`,
	}
	if status, answer := sender(t, it)(whoAmI); status != http.StatusUnauthorized {
		t.Errorf("the API server takes the token that is for the controller: %d %s", status, answer)
	}
	// A token of the same account that the API server takes, which no node has.
	account := asServiceAccount(t, boundTo(t, node.Name())...)
	for _, action := range [][]string{
		{"list", "persistentvolumes"},
		{"patch", "persistentvolumes"},
		{"delete", "persistentvolumes"},
		{"list", "persistentvolumeclaims", "-A"},
		{"update", "persistentvolumeclaims", "-A"},
		{"create", "events", "-A"},
		{"get", "pods", "-n", namespace},
		{"get", "secrets", "-n", namespace},
		{"get", "configmaps", "-n", namespace},
		{"create", "leases", "-n", namespace},
		{"create", "csistoragecapacities", "-n", namespace},
		{"create", "tokenreviews"},
		{"get", "nodes"},
		{"list", "volumesnapshotcontents"},
		{"*", "*", "-A"},
	} {
		out, _ := account("", append([]string{"auth", "can-i"}, action...)...)
		if answer := strings.TrimSpace(out); answer != "no" {
			t.Errorf("a node's account can %v: %q", action, answer)
		}
	}
}

// TestPoliciesHaveNoWarnings: the API server checks their expressions against the types of the
// objects, and reports a misspelt field only in the policy's status.
func TestPoliciesHaveNoWarnings(t *testing.T) {
	t.Parallel()
	const checked = `jsonpath={range .items[*]}{.metadata.name} {.status.typeChecking}{"\n"}{end}`
	eventually(t, readyTimeout, func() error {
		out := kubectl(t, "get", "validatingadmissionpolicies", "-o", checked)
		for line := range strings.Lines(out) {
			name, status, _ := strings.Cut(strings.TrimSpace(line), " ")
			if strings.Contains(status, "warning") {
				t.Fatalf("policy %s: %s", name, status)
			}
			if strings.HasPrefix(name, release) && status == "" {
				return fmt.Errorf("policy %s is not checked yet", name)
			}
		}
		return nil
	})
}

// TestSnapshotControllerMayOnlyKeepTheSourcesOfSnapshots: it may change claims of all namespaces,
// and runs on any node. This cluster has another one; the chart's is here without its pods.
func TestSnapshotControllerMayOnlyKeepTheSourcesOfSnapshots(t *testing.T) {
	t.Parallel()
	w := takeOver(t)
	account := release + "-snapshots"
	for object := range strings.SplitSeq(snapshotController(t), "\n---\n") {
		if !strings.Contains(object, "\nkind: Deployment\n") {
			apply(t, namespace, object)
			t.Cleanup(func() {
				_, _ = testCluster.KubectlInput(context.WithoutCancel(t.Context()),
					strings.NewReader(object), "-n", namespace, "delete", "--ignore-not-found", "-f", "-")
			})
		}
	}
	token := requester(t, account)
	attempts := w.keepSources()
	eventually(t, readyTimeout, func() error { // the API server has to have seen the policy
		if status, answer := token(attempts[0]); status/100 == 2 {
			return fmt.Errorf("%s: %s", attempts[0].what, answer)
		}
		return nil
	})
	var sum outcome
	for _, a := range attempts {
		sum.try(t, token, a)
	}
	t.Log(&sum)
}

// outcome counts attempts by who refused them, and those that were let through.
type outcome struct{ policies, rights, validation, allowed, left int }

func (o *outcome) String() string {
	return fmt.Sprintf("%d attempts refused: %d by policies, %d by RBAC, %d by the API's validation. "+
		"%d allowed as the sidecars need them, %d more that reach beyond the node",
		o.policies+o.rights+o.validation, o.policies, o.rights, o.validation, o.allowed, o.left)
}

// try makes one attempt, and is an error unless it ends as wanted. The API server validates before
// it asks the policies: what no object may be is refused by that.
func (o *outcome) try(t *testing.T, send func(attempt) (int, string), a attempt) {
	t.Helper()
	status, answer := send(a)
	invalid := strings.Contains(answer, "is invalid: ")
	switch {
	case a.want == "" && status/100 != 2:
		t.Errorf("%s, %s: %d %s; it must be possible", a.right, a.what, status, answer)
	case a.want != "" && (status/100 == 2 || !invalid && !strings.Contains(answer, a.want)):
		t.Errorf("%s, %s: %d %s; want a refusal that says %q", a.right, a.what, status, answer, a.want)
	case strings.HasPrefix(a.what, leftOver):
		o.left++
	case a.want == "":
		o.allowed++
	case strings.Contains(answer, "ValidatingAdmissionPolicy"):
		o.policies++
	case status == http.StatusForbidden:
		o.rights++
	default:
		o.validation++
	}
}

// rightsOf lists what a service account's roles, which have its name, grant, as
// "verb resource.group".
func rightsOf(t *testing.T, account string) (rights []string) {
	t.Helper()
	var list struct {
		Items []struct {
			Rules []struct {
				APIGroups []string `json:"apiGroups"`
				Resources []string `json:"resources"`
				Verbs     []string `json:"verbs"`
			} `json:"rules"`
		} `json:"items"`
	}
	out := kubectl(t, "-n", namespace, "get", "clusterroles,roles", "--field-selector",
		"metadata.name="+account, "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	for _, role := range list.Items {
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						rights = append(rights, strings.TrimSuffix(verb+" "+resource+"."+group, "."))
					}
				}
			}
		}
	}
	if len(rights) == 0 {
		t.Fatal("the service account has no rights")
	}
	slices.Sort(rights)
	return slices.Compact(rights)
}

// takeOver makes what the attempts are about: claims in every state of both binding modes, of this
// driver and of others.
func takeOver(t *testing.T) *takenOver {
	t.Helper()
	w := &takenOver{
		t: t, ns: newNamespace(t), asked: map[string]string{},
		here: testCluster.Nodes()[0].Name(), there: testCluster.Nodes()[1].Name(),
	}
	for name, node := range driverPods(t) {
		if node == w.here {
			w.pod = name
		}
	}
	for name, node := range map[string]string{"here": w.here, "there": w.there} {
		p := mounts(name, "/data")
		p.node = node
		apply(t, w.ns, claim(name, "csi-hostpath", "1Mi")+pod(name, p)+
			strings.Replace(claim("immediate-"+name, "csi-hostpath-immediate", "1Mi"), "metadata: {",
				"metadata: {annotations: {"+selectedNode+": "+node+"}, ", 1))
	}
	// A class that does not exist keeps every controller from these.
	for _, name := range []string{"waiting", "taken-here", "taken-there", "foreign"} {
		apply(t, w.ns, claim(name, "of-nobody", "1Mi"))
	}
	apply(t, w.ns, claim("unscheduled", "csi-hostpath", "1Mi"))
	annotate := func(name string, values ...string) {
		kubectl(t, append([]string{"-n", w.ns, "annotate", "pvc", name}, values...)...)
	}
	annotate("waiting", provisionerOf+"="+driverName)
	annotate("taken-here", provisionerOf+"="+driverName, selectedNode+"="+w.here)
	annotate("taken-there", provisionerOf+"="+driverName, selectedNode+"="+w.there)
	annotate("foreign", provisionerOf+"=ebs.csi.aws.com")
	static(t, w.ns)
	waitReady(t, w.ns, "here", "there")
	waitBound(t, w.ns, "immediate-here", "immediate-there")
	annotate("immediate-there", selectedNode+"-") // bound, and with no node's name
	apply(t, w.ns, snapshot("here", "here")+snapshot("there", "there"))
	waitSnapshots(t, w.ns, "here", "there")
	return w
}

// static binds a claim to a volume that an administrator wrote, of no driver.
func static(t *testing.T, ns string) {
	t.Helper()
	name := ns + "-static"
	t.Cleanup(func() { kubectl(t, "delete", "pv", name, "--ignore-not-found", "--wait=false") })
	apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %s}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: %s, name: static}
  nfs: {server: 192.0.2.1, path: /}
`, name, ns)+claim("static", "by-hand", "1Mi"))
	waitBound(t, ns, "static")
}

func waitBound(t *testing.T, ns string, names ...string) {
	t.Helper()
	for _, name := range names {
		kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.phase}=Bound",
			"--timeout="+readyTimeout.String(), "pvc/"+name)
	}
}

type asUser func(stdin string, args ...string) (string, error)

func claimPath(ns, name string) string {
	return "/api/v1/namespaces/" + ns + "/persistentvolumeclaims/" + name
}

// boundTo are the flags that make a token the one of a node's driver pod, as kubelet mounts it
// there.
func boundTo(t *testing.T, node string) []string {
	t.Helper()
	for name, where := range driverPods(t) {
		if where == node {
			return boundToPod(t, name)
		}
	}
	t.Fatalf("no driver runs on %s", node)
	return nil
}

func boundToPod(t *testing.T, name string) []string {
	t.Helper()
	uid := kubectl(t, "-n", namespace, "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
	return []string{
		"--bound-object-kind=Pod", "--bound-object-name=" + name, "--bound-object-uid=" + uid,
	}
}

// placerAccount is the service account of the placer and the resizer, and the name of their
// Deployment.
const placerAccount = release + "-placer"

// placerPod is one of the placer's pods.
func placerPod(t *testing.T) string {
	t.Helper()
	return kubectl(t, "-n", namespace, "get", "pods", "-l", "app.kubernetes.io/component=placer",
		"-o", "jsonpath={.items[0].metadata.name}")
}

// identity is how the API server is reached, and by whom.
type identity struct{ server, authority, token string }

// serviceAccount has a token of a service account of the chart.
func serviceAccount(t *testing.T, account string, bound ...string) identity {
	t.Helper()
	view := func(what string) string {
		return kubectl(t, "config", "view", "--raw", "--minify", "-o",
			"jsonpath={.clusters[0].cluster."+what+"}")
	}
	return identity{
		server: view("server"), authority: view("certificate-authority-data"),
		token: kubectl(t, append([]string{"-n", namespace, "create", "token", account}, bound...)...),
	}
}

// requester tries an attempt without its being done (dryRun), and returns the API server's answer.
func requester(
	t *testing.T, account string, bound ...string,
) func(attempt) (status int, answer string) {
	t.Helper()
	send := sender(t, serviceAccount(t, account, bound...))
	return func(a attempt) (status int, answer string) {
		eventually(t, readyTimeout, func() error {
			status, answer = send(a)
			if a.method != http.MethodPut || status != http.StatusConflict {
				return nil
			}
			// Its controller has written the object meanwhile, as the resizer does its lease.
			a.body = fixture.Merged(t, a.body, versionOf(t, strings.TrimSuffix(a.path, "/status")))
			return fmt.Errorf("%s: %s", a.what, answer)
		})
		return status, answer
	}
}

// sender makes one request of an attempt, without its being done.
func sender(t *testing.T, it identity) func(attempt) (status int, answer string) {
	t.Helper()
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
	return func(a attempt) (int, string) {
		url := it.server + a.path
		if a.method != http.MethodGet {
			url += "?dryRun=All"
		}
		request, err := http.NewRequestWithContext(t.Context(), a.method, url, strings.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+it.token)
		request.Header.Set("Content-Type", "application/json")
		if a.method == http.MethodPatch {
			request.Header.Set("Content-Type", "application/merge-patch+json")
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(answer)
	}
}

// versionOf is a merge patch that gives an object the version which the API server has now.
func versionOf(t *testing.T, path string) string {
	t.Helper()
	var o struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "--raw", path)), &o); err != nil {
		t.Fatal(err)
	}
	return marshal(map[string]any{"metadata": o.Metadata})
}

// asServiceAccount returns a kubectl that has a token of the driver's service account, and nothing
// else.
func asServiceAccount(t *testing.T, bound ...string) asUser {
	t.Helper()
	it := serviceAccount(t, release, bound...)
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
