//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// podsOfSite all show the same content on one node.
var podsOfSite = []string{"site-1", "site-2", "site-3"}

// TestPodsFollowARepository shows content from git over HTTPS and SSH, inline, of a class and of a
// PersistentVolume. Then everything fails that pods must not notice.
func TestPodsFollowARepository(t *testing.T) {
	g := startGitServer(t)
	site := g.newRepository("site")
	site.push("index.html", "one")
	g.allow()
	ns := newNamespace(t)
	apply(t, ns, g.secrets())
	node := testCluster.Nodes()[0]
	inline := g.inline(node, site)
	for _, name := range podsOfSite {
		apply(t, ns, pod(name, inline))
	}
	pods := append(g.startClaimed(ns, node, site), podsOfSite...)
	waitReady(t, ns, pods...)
	if n := g.packs("/site.git"); n != 2 {
		t.Errorf("%d packs were sent by HTTPS, want one for the inline volumes and one for the claim", n)
	}
	saySite(t, ns, "one", pods...)
	if err := shError(t, ns, "site-1", "echo x >/content/site/index.html"); !strings.Contains(
		err.Error(), "Read-only file system") {
		t.Errorf("writing says %v", err)
	}
	checkRefusals(t, ns, g, node, site)

	sh(t, ns, "site-1", "(exec 3</content/site/index.html; until [ -e /tmp/go ]; do usleep 50000; done; "+
		"cat <&3 >/tmp/old) >/dev/null 2>&1 &")
	site.push("index.html", "two")
	saySite(t, ns, "two", pods...)
	if got := sh(t, ns, "site-1",
		"touch /tmp/go; until [ -s /tmp/old ]; do usleep 50000; done; cat /tmp/old"); got != "one" {
		t.Errorf("who has opened the old tree reads %q", got)
	}
	if n := g.packs("/site.git"); n != 4 {
		t.Errorf("%d packs were sent by HTTPS after a push, want one more for each content", n)
	}

	checkFollowsAfterFailures(t, ns, g, node, site, pods)
}

// checkFollowsAfterFailures kills the fetcher and the driver, reboots the node while the server is
// away, and brings the server back.
func checkFollowsAfterFailures(
	t *testing.T, ns string, g *gitServer, node *cluster.Node, site repository, pods []string,
) {
	t.Helper()
	for _, program := range []string{"csi-hostpath-git", "csi-hostpath"} {
		if killed, err := node.KillProcesses(program); err != nil || killed == 0 {
			t.Fatalf("killed %d processes of %s, %v", killed, program, err)
		}
	}
	site.push("index.html", "three")
	saySite(t, ns, "three", pods...)

	g.stop()
	if err := node.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	saySite(t, ns, "three", pods...)
	apply(t, ns, pod("late", g.inline(node, site)))
	waitReady(t, ns, "late")
	for _, name := range pods { // kubelet makes the event, and changes nothing of the mount
		eventually(t, readyTimeout, func() error {
			return saysEvent(t, ns, name, "not refreshed: the pod keeps commit ")
		})
	}
	if *deployment == "central" {
		eventually(t, readyTimeout, func() error {
			return describes(t, ns, "pvc", "by-class", "GitStale")
		})
	}
	g.start()
	site.push("index.html", "four")
	saySite(t, ns, "four", append(pods, "late")...)
	waitDriversReady(t)
}

// checkRefusals starts pods that never get content: their events say why, and do not say the
// secret.
func checkRefusals(t *testing.T, ns string, g *gitServer, node *cluster.Node, site repository) {
	t.Helper()
	large := g.newRepository("large")
	large.push("large", strings.Repeat("0123456789abcdef", 1<<17)) // 2 MiB
	wrong, tooLarge, forbidden := g.inline(node, site), g.inline(node, large), g.inline(node, site)
	replace := func(p podSpec, old, now string) podSpec {
		p.volumes = []string{strings.Replace(p.volumes[0], old, now, 1)}
		return p
	}
	apply(t, ns, pod("wrong-secret", replace(wrong, "name: https", "name: wrong"))+
		pod("too-large", replace(tooLarge, `"32Mi"`, `"1Mi"`))+
		pod("forbidden", replace(forbidden, g.HTTPS, "https://git.example.com/")))
	for name, want := range map[string]string{
		"wrong-secret": "unauthorized: ",
		"too-large":    "too_large: ",
		"forbidden":    "no gitSources rule allows",
	} {
		eventually(t, readyTimeout, func() error { return saysEvent(t, ns, name, want) })
	}
	if out := describe(ns); strings.Contains(out, g.Password) || strings.Contains(out, wrongPassword) {
		t.Error("an event has a password")
	}
	deletePod(t, ns, "wrong-secret", "too-large", "forbidden")
}

// TestManyPodsOfANodeFetchOnce starts 50 pods at once. Then the server goes away, and each pod
// hears of it. CI skips it: it takes more than two minutes.
func TestManyPodsOfANodeFetchOnce(t *testing.T) {
	g := startGitServer(t)
	site := g.newRepository("site")
	site.push("index.html", "one")
	g.allow()
	ns := newNamespace(t)
	apply(t, ns, g.secrets())
	var manifests strings.Builder
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("site-%d", i))
		manifests.WriteString(pod(names[i], g.inline(testCluster.Nodes()[0], site)))
	}
	apply(t, ns, manifests.String())
	waitReady(t, ns, names...)
	site.push("index.html", "two")
	saySite(t, ns, "two", names...)
	if n := g.packs("/site.git"); n != 2 {
		t.Errorf("%d packs were sent for %d pods and one push, want 2", n, len(names))
	}

	g.stop()
	for _, name := range names {
		eventually(t, readyTimeout, func() error { return saysEvent(t, ns, name, "not refreshed: ") })
	}
	saySite(t, ns, "two", names...)
	g.start()
	site.push("index.html", "three")
	saySite(t, ns, "three", names...)
	restarts := kubectl(t, "-n", ns, "get", "pods", "-o",
		"jsonpath={.items[*].status.containerStatuses[*].restartCount}")
	if strings.Trim(restarts, "0 ") != "" {
		t.Errorf("containers were started again: %s", restarts)
	}
}

// saySite waits until pods that run show a content.
func saySite(t *testing.T, ns, want string, names ...string) {
	t.Helper()
	for _, name := range names {
		eventually(t, readyTimeout, func() error {
			got, err := testCluster.Kubectl(t.Context(), "-n", ns, "exec", name, "--", "cat",
				"/content/site/index.html")
			if err == nil && got != want {
				err = fmt.Errorf("pod %s shows %q, want %q", name, got, want)
			}
			return err
		})
	}
}

// gitServer is gitfetch/gitserver at the address of node 2, where the pods of node 1 reach it. It
// has one user of HTTPS and one of SSH, who may read all repositories.
type gitServer struct {
	t    *testing.T
	node *cluster.Node
	stop func()

	// What the server says of itself.
	HTTPS, SSH, Password, Certificate, ClientKey, KnownHosts string

	mu   sync.Mutex
	sent map[string]int // packs by HTTPS, by repository
}

const (
	gitFolder     = "/srv/git" // in the node
	wrongPassword = "tr0ub4dor"
)

func startGitServer(t *testing.T) *gitServer {
	t.Helper()
	g := &gitServer{t: t, node: testCluster.Nodes()[1], stop: func() {}, sent: make(map[string]int)}
	g.must(os.RemoveAll(g.path()))
	g.must(os.MkdirAll(g.path(), 0o755))
	build := exec.CommandContext(t.Context(), "go", "-C", filepath.Join(root, "gitfetch"), "build",
		"-o", g.path("gitserver"), "./gitserver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { g.stop() })
	g.start()
	return g
}

func (g *gitServer) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// path is where the test finds a file of the server.
func (g *gitServer) path(names ...string) string {
	g.t.Helper()
	path, err := g.node.HostPath(gitFolder)
	g.must(err)
	return filepath.Join(append([]string{path}, names...)...)
}

// start runs the server until stop. It is the same server each time, by its keys.
func (g *gitServer) start() {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := g.node.Command(ctx, gitFolder+"/gitserver", "--address", g.node.IP(), "--root",
		gitFolder, "--state", gitFolder+"/state.json")
	g.must(err)
	stdin, err := cmd.StdinPipe() // the server ends with it
	g.must(err)
	stdout, err := cmd.StdoutPipe()
	g.must(err)
	cmd.Stderr = os.Stderr
	g.must(cmd.Start())
	g.stop = sync.OnceFunc(func() { _ = stdin.Close(); _ = cmd.Wait(); cancel() })
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		g.t.Fatal("the git server has not started")
	}
	g.must(json.Unmarshal(lines.Bytes(), g))
	go func() {
		for lines.Scan() {
			g.mu.Lock()
			g.sent[lines.Text()]++
			g.mu.Unlock()
		}
	}()
}

// packs is how many packs of a repository were asked for by HTTPS.
func (g *gitServer) packs(repository string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sent[repository]
}

// allow installs the driver with rules for the server, until the test ends.
func (g *gitServer) allow() {
	g.t.Helper()
	var set []string
	for i, prefix := range []string{g.HTTPS, strings.Replace(g.SSH, "git@", "", 1)} {
		rule := fmt.Sprintf("config.gitSources[%d].", i)
		set = append(set, rule+"urlPrefix="+prefix, rule+"maxSize=64Mi", rule+"minPeriod=2s")
	}
	g.must(install(g.t.Context(), set...))
	g.t.Cleanup(func() {
		if err := install(context.Background()); err != nil {
			g.t.Error(err)
		}
	})
}

// repository is one of the server's, beside the work tree of somebody who pushes.
type repository struct {
	g    *gitServer
	name string
}

func (g *gitServer) newRepository(name string) repository {
	g.t.Helper()
	r := repository{g: g, name: name}
	bare := gitFolder + "/" + name + ".git"
	r.git("init", "--quiet", "--bare", "--initial-branch=main", bare)
	r.git("clone", "--quiet", bare, r.tree())
	return r
}

func (r repository) tree() string { return gitFolder + "/trees/" + r.name }

func (r repository) git(args ...string) {
	r.g.t.Helper()
	command := []string{
		"env", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "git",
	}
	_, err := r.g.node.Exec(r.g.t.Context(), append(command, args...)...)
	r.g.must(err)
}

// push commits a file and pushes it.
func (r repository) push(name, content string) {
	r.g.t.Helper()
	r.g.must(os.WriteFile(r.g.path("trees", r.name, name), []byte(content), 0o600))
	r.git("-C", r.tree(), "add", "--all")
	r.git("-C", r.tree(), "commit", "--quiet", "-m", "change "+name)
	r.git("-C", r.tree(), "push", "--quiet", "origin", "HEAD:main")
}

func (g *gitServer) secrets() string {
	secret := func(name string, pairs ...string) string {
		return fmt.Sprintf("---\n{apiVersion: v1, kind: Secret, metadata: {name: %s}, stringData: %s}\n",
			name, flow(pairs...))
	}
	return secret("https", "username", "user", "password", g.Password, "ca.crt", g.Certificate) +
		secret("wrong", "username", "user", "password", wrongPassword, "ca.crt", g.Certificate) +
		secret("ssh", "ssh-privatekey", g.ClientKey, "known_hosts", g.KnownHosts)
}

func (g *gitServer) inline(node *cluster.Node, r repository) podSpec {
	p := podSpec{node: node.Name()}
	return p.with(fmt.Sprintf("{name: content, csi: {driver: %s, readOnly: true, "+
		"nodePublishSecretRef: {name: https}, volumeAttributes: %s}}", driverName,
		flow("source", "git", "url", g.HTTPS+r.name+".git", "ref", "main", "period", "2s", "size", "32Mi")),
		"{name: content, mountPath: /content}")
}

// startClaimed starts pod by-volume, whose PersistentVolume an administrator wrote, with content by
// HTTPS, and pod by-class, whose class has content by SSH. In node deployment nobody makes volumes
// that name a secret.
func (g *gitServer) startClaimed(ns string, node *cluster.Node, r repository) (pods []string) {
	g.t.Helper()
	manifests := staticVolume(g.t, ns, "by-volume", node, "source", "git",
		"url", g.HTTPS+r.name+".git", "ref", "refs/heads/main", "period", "2s", "size", "32Mi")
	manifests = strings.Replace(manifests, "csi: {", fmt.Sprintf(
		"csi: {nodePublishSecretRef: {name: https, namespace: %s}, ", ns), 1)
	pods = []string{"by-volume"}
	if *deployment == "central" {
		class(g.t, ns, "source", "git", "url", g.SSH+r.name+".git", "period", "2s",
			"csi.storage.k8s.io/node-publish-secret-name", "ssh",
			"csi.storage.k8s.io/node-publish-secret-namespace", "${pvc.namespace}")
		manifests += claim("by-class", ns, "32Mi", "ReadOnlyMany")
		pods = append(pods, "by-class")
	}
	apply(g.t, ns, manifests)
	for _, name := range pods {
		p := podSpec{node: node.Name()}
		apply(g.t, ns, pod(name, p.with(fmt.Sprintf(
			"{name: content, persistentVolumeClaim: {claimName: %s, readOnly: true}}", name),
			"{name: content, mountPath: /content}")))
	}
	return pods
}
