package crash

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const (
	gitBytes = 16 << 20

	oldCommit = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	newCommit = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// gitFiles are the files of a commit; same is not of one commit alone.
func gitFiles(commit string) map[string]string {
	return map[string]string{"one": commit, "two": commit, "same": content}
}

// gitNode is a node that may show repositories of one server.
type gitNode struct {
	*node
	fetcher *fixture.Fetcher
	url     string // of the repository that pods show
	targets []string
}

func newGitNode(t *testing.T, binary, dir string) *gitNode {
	t.Helper()
	n := &gitNode{node: newNode(t, binary, dir), fetcher: fixture.NewFetcher(t), url: "https://h/site"}
	n.targets = []string{n.target("a"), n.target("b")}
	n.fetcher.Commit(oldCommit, gitFiles(oldCommit))
	f, err := os.OpenFile(n.Path("config.yaml"), os.O_WRONLY|os.O_APPEND, 0)
	n.Must(err)
	defer f.Close()
	_, err = f.WriteString("gitSources: [{urlPrefix: \"https://h/\", maxSize: 1Gi, minPeriod: 1s}]\n")
	n.Must(err)
	n.SetArgs("--metrics-address", n.metricsAddress, "--config", n.Path("config.yaml"),
		"--git-fetcher-socket", n.fetcher.Socket)
	return n
}

func podOf(target string) string { return filepath.Base(filepath.Dir(target)) }

// gitHandle is what kubelet calls the content at a target.
func gitHandle(target string) string { return "csi-" + podOf(target) }

// publishGit publishes the content for a pod as kubelet does.
func (n *gitNode) publishGit(target string) error {
	ctx, cancel := context.WithTimeout(n.t.Context(), fixture.Patience())
	defer cancel()
	pod := podOf(target)
	_, err := n.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: gitHandle(target), TargetPath: target, Readonly: true,
		VolumeCapability: fixture.MountCapability(""),
		VolumeContext: map[string]string{
			"source": "git", "url": n.url, "size": strconv.Itoa(gitBytes), "period": "1s",
			"csi.storage.k8s.io/ephemeral":     "true",
			"csi.storage.k8s.io/pod.uid":       pod,
			"csi.storage.k8s.io/pod.name":      pod,
			"csi.storage.k8s.io/pod.namespace": "ns",
		},
	})
	return err
}

// TestContentFromGitOutlivesKillsAndLoad kills the driver at every step while a content is fetched
// for the first time, and while pods show it and it is refreshed. Beside that pods come and go.
func TestContentFromGitOutlivesKillsAndLoad(t *testing.T) {
	disks.RequireRoot(t)
	binary := fixture.Build(t, "failpoint")
	disk := disks.New(t, disks.Ext4, diskBytes)
	t.Run("pods come and go", func(t *testing.T) {
		t.Parallel()
		newGitNode(t, binary, filepath.Join(disk.Dir, "node")).comeAndGo()
	})
	for _, tc := range []struct {
		title, prefix string // of the failpoints
		run           func(n *gitNode, env string) (point string)
		commit        string // that pods see at the end
	}{
		{"publish", "", (*gitNode).crashPublish, oldCommit},
		{"refresh", "git.", (*gitNode).crashRefresh, newCommit},
	} {
		t.Run(tc.title, func(t *testing.T) {
			t.Parallel()
			hit := map[string]bool{}
			for step := 1; ; step++ {
				n := newGitNode(t, binary, filepath.Join(disk.Dir, fmt.Sprintf("%s-%d", tc.title, step)))
				point := tc.run(n, failpointOf(tc.prefix, step))
				n.checkGit(point, tc.commit)
				if point == "" {
					break
				}
				hit[point] = true
				if step == maxSteps {
					t.Fatalf("the driver still dies at step %d", step)
				}
			}
			for _, point := range failpointsIn(t, "../../pkg/gittree", "") {
				if !hit[point] {
					t.Errorf("the driver never died at %s", point)
				}
			}
		})
	}
}

// comeAndGo lets pods come and go while the server has a new commit again and again. What a pod
// opens is one tree, whole. At the end the driver is told to stop during a fetch.
func (n *gitNode) comeAndGo() {
	const pods, commits = 8, 25
	n.t.Helper()
	n.Start()
	var running sync.WaitGroup
	var ended atomic.Bool
	for pod := range pods {
		target := n.target(strconv.Itoa(pod))
		running.Go(func() {
			for !ended.Load() {
				if err := n.publishGit(target); err != nil {
					n.t.Errorf("publish for pod %d: %v", pod, err)
				}
				if got := n.treeAt(target); len(got) != len(oldCommit) {
					n.t.Errorf("pod %d sees %s", pod, got)
				}
				if err := n.unpublish(n.t.Context(), gitHandle(target), target); err != nil {
					n.t.Errorf("unpublish for pod %d: %v", pod, err)
				}
			}
		})
	}
	last := ""
	for i := range commits {
		last = fmt.Sprintf("%040x", i)
		n.fetcher.Commit(last, gitFiles(last))
		time.Sleep(100 * time.Millisecond) // no poll: pods come at any moment
	}
	ended.Store(true)
	running.Wait()
	for _, target := range n.targets {
		n.Must(n.publishGit(target))
		n.eventually("the pod sees the last commit", func() bool { return n.treeAt(target) == last })
	}
	n.checkGit("", last)

	n.Start()
	release := n.fetcher.Hold()
	defer release()
	asked := len(n.fetcher.Requests())
	n.url = "https://h/other"
	waiting := make(chan error)
	go func() { waiting <- n.publishGit(n.targets[0]) }()
	n.eventually("a fetch has begun", func() bool { return len(n.fetcher.Requests()) > asked })
	n.Stop()
	if err := <-waiting; status.Code(err) != codes.Unavailable {
		n.t.Errorf("the publish that waited: %v, want UNAVAILABLE", err)
	}
}

// crashPublish publishes the content for the first time.
func (n *gitNode) crashPublish(env string) (point string) {
	n.t.Helper()
	n.Start() // the pool is made
	n.Start(env)
	if err := n.publishGit(n.targets[0]); err != nil {
		point = n.waitKilled()
	}
	n.Start()
	for range 2 { // kubelet's retry, and its next look
		for _, target := range n.targets {
			n.Must(n.publishGit(target))
		}
	}
	return point
}

// crashRefresh lets running pods see a push.
func (n *gitNode) crashRefresh(env string) (point string) {
	n.t.Helper()
	n.Start()
	for _, target := range n.targets {
		n.Must(n.publishGit(target))
	}
	n.Kill()
	n.fetcher.Commit(newCommit, gitFiles(newCommit))
	n.Start(env)
	_ = n.publishGit(n.targets[0]) // the refresh begins, and may kill the driver meanwhile
	if n.refreshes() {
		for _, target := range n.targets {
			n.Must(n.publishGit(target))
		}
		return ""
	}
	point = n.waitKilled()
	if got := n.treeAt(n.targets[0]); got != oldCommit && got != newCommit {
		n.t.Errorf("killed at %s: without a driver, pods see %q", point, got)
	}
	n.Start()
	for _, target := range n.targets {
		n.Must(n.publishGit(target))
	}
	if !n.refreshes() {
		n.t.Fatalf("killed at %s: the next driver has died, too", point)
	}
	return point
}

// refreshes waits until the driver has asked the server, and done all that follows. It is false if
// the driver has died before.
func (n *gitNode) refreshes() (done bool) {
	n.t.Helper()
	n.eventually("the content is refreshed", func() bool {
		select {
		case <-n.Exited():
			return true
		default:
			done = n.hasFetched()
			return done
		}
	})
	return done
}

// hasFetched says whether a fetch of the driver's process has succeeded.
func (n *gitNode) hasFetched() bool {
	resp, err := http.Get("http://" + n.metricsAddress + "/metrics")
	if err != nil {
		return false // it dies
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return err == nil && regexp.MustCompile(
		`csi_hostpath_git_fetches_total\{result="(un)?changed"\} [1-9]`).Match(text)
}

func (n *gitNode) waitKilled() (point string) {
	n.t.Helper()
	select {
	case <-n.Exited():
	case <-time.After(fixture.Patience()):
		n.t.Fatal("a call has failed, and the driver is alive")
	}
	point = n.killedAt()
	n.t.Logf("killed at %s", point)
	return point
}

// commitAt is the commit that the file beside a tree says.
func (n *gitNode) commitAt(target string) string {
	text, _ := os.ReadFile(filepath.Join(target, ".hostpath-commit"))
	return strings.TrimSuffix(string(text), "\n")
}

// treeAt is the commit whose files a target shows; if they are not those of one commit, it is what
// they have.
func (n *gitNode) treeAt(target string) string {
	tree, err := os.OpenRoot(filepath.Join(target, "site")) // an exchange does not change what it is
	if err != nil {
		return err.Error()
	}
	defer tree.Close()
	files := map[string]string{}
	err = fs.WalkDir(tree.FS(), ".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := tree.ReadFile(path)
		files[path] = string(text)
		return err
	})
	if err != nil || !maps.Equal(files, gitFiles(files["one"])) {
		return fmt.Sprintf("%q, %v", files, err)
	}
	return files["one"]
}

// checkGit tests what must be true at the end, and then unpublishes.
func (n *gitNode) checkGit(point, want string) {
	n.t.Helper()
	for _, target := range n.targets {
		if tree, commit := n.treeAt(target), n.commitAt(target); tree != want || commit != want {
			n.t.Errorf("killed at %s: %s shows %q, and says %q", point, target, tree, commit)
		}
	}
	n.eventually("nothing is left over", func() bool {
		return len(n.leftovers()) == 0 && n.ledger() == [2]int64{gitBytes, 0}
	})
	volumes := n.Entries("pool", "volumes")
	if len(volumes) != 1 {
		n.t.Fatalf("killed at %s: the volumes are %q, want one content", point, volumes)
	}
	for _, name := range n.Entries("pool", "volumes", volumes[0], "data", "building") {
		if !strings.HasPrefix(name, "old-") { // which a sweep removes
			n.t.Errorf("killed at %s: %s is left over", point, name)
		}
	}
	for _, target := range n.targets {
		n.Must(n.unpublish(n.t.Context(), gitHandle(target), target))
	}
	if got := n.Mounts("kubelet"); len(got) != 0 {
		n.t.Errorf("killed at %s: the mounts are %q", point, got)
	}
	n.Stop()
}
