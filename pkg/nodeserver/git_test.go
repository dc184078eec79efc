package nodeserver

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const gitURL = "https://git.example.com/team/site.git"

func commitOf(digit string) string { return strings.Repeat(digit, 40) }

// newGitNode is a node that may show repositories of one server.
func newGitNode(t *testing.T) (*node, *fixture.Fetcher) {
	t.Helper()
	n := newNode(t)
	f := fixture.NewFetcher(t)
	n.startGit(t, f)
	return n, f
}

// startGit gives the node what a start of the driver gives it.
func (n *node) startGit(t *testing.T, f *fixture.Fetcher) {
	t.Helper()
	prefix, err := volume.ParseGitPrefix("https://git.example.com/team/")
	fixture.Must(t, err)
	n.Git = gitsource.New(t.Context(), gitsource.Options{
		Rules: gitsource.NewRules([]gitsource.Rule{
			{Prefix: prefix, MaxSizeBytes: 1 << 30, MinPeriod: time.Second},
		}),
		Pools: n.Pools,
		Fetch: gitsource.At(f.Socket),
	})
	t.Cleanup(n.Git.Close)
}

// publishGit publishes content of git as an inline volume, as kubelet does.
func (n *node) publishGit(
	t *testing.T, uid string, change func(*csi.NodePublishVolumeRequest),
) error {
	t.Helper()
	fixture.Must(t, os.MkdirAll(filepath.Dir(inlineTarget(n, uid)), 0o750))
	req := &csi.NodePublishVolumeRequest{
		VolumeId: inlineHandle(uid), TargetPath: inlineTarget(n, uid),
		VolumeCapability: capabilityOf(multiWriter), Readonly: true,
		VolumeContext: map[string]string{
			volume.ParamSource: "git", volume.ParamURL: gitURL, volume.ParamSize: "16Mi",
			volume.AttrPodUID: uid, volume.AttrPodNamespace: "ns", volume.AttrPodName: "pod",
			volume.AttrEphemeral: "true",
		},
	}
	if change != nil {
		change(req)
	}
	return n.publish(t, req)
}

// restartGit ends what one process of the driver knows, and begins that of the next one.
func (n *node) restartGit(t *testing.T, f *fixture.Fetcher) {
	t.Helper()
	n.Git.Close()
	n.Publications = NewPublications()
	fixture.Must(t, n.Publications.RebuildReferences(t.Context(), n.KubeletDir, "hostpath.csi.local"))
	fixture.Must(t, n.Publications.Rebuild(n.KubeletDir, n.pool))
	n.startGit(t, f)
}

func (n *node) wantFile(t *testing.T, uid, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(inlineTarget(n, uid), name))
	if err != nil || string(got) != want {
		t.Errorf("%s of pod %s has %q, %v, want %q", name, uid, got, err, want)
	}
}

func TestPodsShowOneContentOfGitReadOnly(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), map[string]string{"index.html": "one"})
	for _, uid := range []string{deadUID, liveUID} {
		fixture.Must(t, n.publishGit(t, uid, nil))
		n.wantFile(t, uid, "site/index.html", "one")
		n.wantFile(t, uid, volume.GitCommitFile, commitOf("a")+"\n")
		path := filepath.Join(inlineTarget(n, uid), "site", "index.html")
		if err := os.WriteFile(path, nil, 0o600); err == nil {
			t.Error("the pod can write")
		}
	}
	if got := len(f.Requests()); got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
	if got := len(n.pool.GitContents()); got != 1 {
		t.Errorf("%d contents, want 1", got)
	}
	if got := n.inlineVolumes(); got != 0 {
		t.Errorf("%d inline volumes, want 0", got)
	}
	shown := n.Git.Shown(n.pool.GitContents()[0].ID)
	pods := n.Publications.PodsAt(shown.Targets, 16)
	if len(pods) != 2 || pods[0].Name != "pod" || pods[1].Namespace != "ns" || shown.IsStale ||
		shown.Commit != commitOf("a") || shown.Ref != "HEAD" || shown.Fetched.IsZero() {
		t.Errorf("people are told %+v of pods %+v", shown, pods)
	}
	for _, uid := range []string{deadUID, liveUID} {
		fixture.Must(t, n.unpublishHandle(t, inlineHandle(uid), inlineTarget(n, uid)))
	}
	if got := mountsBelow(t, n.KubeletDir); len(got) != 0 {
		t.Errorf("mounts are left: %v", got)
	}
}

// A claim's volume has the attributes that its class, or a PersistentVolume written by hand, has.
func TestClaimShowsContentOfGitThatPodsShare(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), map[string]string{"index.html": "one"})
	class, err := volume.ParseParameters(map[string]string{"source": "git", "url": gitURL})
	fixture.Must(t, err)
	name, err := volume.ParseName("pvc-1")
	fixture.Must(t, err)
	_, err = n.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: class.ReferenceID(name), StagingTargetPath: n.target("staging"),
		VolumeCapability: capabilityOf(multiWriter),
		VolumeContext:    map[string]string{"source": "git", "url": gitURL, "size": "16777216"},
	})
	fixture.Must(t, err)
	fixture.Must(t, n.publishGit(t, deadUID, nil)) // an inline volume
	publish := func(handle string, readOnly bool) error {
		return n.publishGit(t, liveUID, func(r *csi.NodePublishVolumeRequest) {
			r.VolumeId, r.Readonly, r.StagingTargetPath = handle, readOnly, n.target("staging")
			r.VolumeContext[volume.ParamSize] = "16777216"
			r.VolumeContext[volume.AttrEphemeral] = "false"
		})
	}
	for _, handle := range []string{class.ReferenceID(name), "by-hand"} {
		err := publish(handle, false)
		wantCode(t, err, codes.PermissionDenied)
		if !strings.Contains(err.Error(), "persistentVolumeClaim") {
			t.Errorf("%v: want what the pod has to set", err)
		}
		fixture.Must(t, publish(handle, true))
		n.wantFile(t, liveUID, "site/index.html", "one")
		stats, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{
			VolumeId: handle, VolumePath: inlineTarget(n, liveUID),
		})
		if err != nil || len(stats.GetUsage()) != 2 || stats.GetUsage()[0].GetTotal() == 0 {
			t.Errorf("%v, %v: want bytes and inodes", stats, err)
		}
		_, err = n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
			VolumeId: handle, VolumePath: inlineTarget(n, liveUID),
			CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 30},
		})
		wantCode(t, err, codes.NotFound)
		fixture.Must(t, n.unpublishHandle(t, handle, inlineTarget(n, liveUID)))
	}
	if fetches, contents := len(f.Requests()), len(n.pool.GitContents()); fetches+contents != 2 {
		t.Errorf("%d fetches, %d contents, want one of each", fetches, contents)
	}

	err = publish(n.pool.GitContents()[0].ID.String(), true)
	wantCode(t, err, codes.InvalidArgument)
	other, err := volume.ParseParameters(map[string]string{"source": "git", "url": gitURL, "ref": "x"})
	fixture.Must(t, err)
	err = publish(other.ReferenceID(name), true) // made for another ref
	wantCode(t, err, codes.InvalidArgument)
}

func TestContentOfGitIsRefusedWithItsCode(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), nil)
	set := func(key, value string) func(*csi.NodePublishVolumeRequest) {
		return func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext = maps.Clone(r.GetVolumeContext())
			if r.VolumeContext[key] = value; value == "" {
				delete(r.GetVolumeContext(), key)
			}
		}
	}
	for _, tc := range []struct {
		title  string
		change func(*csi.NodePublishVolumeRequest)
		want   codes.Code
	}{
		{"writable", func(r *csi.NodePublishVolumeRequest) { r.Readonly = false }, codes.PermissionDenied},
		{"another server", set("url", "https://example.com/team/site"), codes.PermissionDenied},
		{"another team", set("url", "https://git.example.com/teams/site"), codes.PermissionDenied},
		{"no size", set("size", ""), codes.InvalidArgument},
		{"too large", set("size", "2Gi"), codes.PermissionDenied},
		{"unknown key", set("branch", "main"), codes.InvalidArgument},
		{"not kubelet's pod", set(volume.AttrPodUID, "other"), codes.PermissionDenied},
		{
			"a secret without a key",
			func(r *csi.NodePublishVolumeRequest) { r.Secrets = map[string]string{"x": "y"} },
			codes.InvalidArgument,
		},
	} {
		t.Run(tc.title, func(t *testing.T) {
			wantCode(t, n.publishGit(t, liveUID, tc.change), tc.want)
		})
	}
	if got := len(f.Requests()); got != 0 {
		t.Errorf("%d fetches, want none", got)
	}
	if got := len(n.pool.GitContents()); got != 0 {
		t.Errorf("%d contents, want none", got)
	}
}

func TestFirstFetchThatFailsSaysWhy(t *testing.T) {
	for _, tc := range []struct {
		fault gitwire.Fault
		want  codes.Code
	}{
		{gitwire.Unreachable, codes.Unavailable},
		{gitwire.Unauthorized, codes.PermissionDenied},
		{gitwire.NotFound, codes.FailedPrecondition},
		{gitwire.Malformed, codes.FailedPrecondition},
		{gitwire.Refused, codes.PermissionDenied},
		{gitwire.TooLarge, codes.ResourceExhausted},
		{gitwire.Internal, codes.Unavailable},
		{"of a later version", codes.Unavailable},
	} {
		t.Run(string(tc.fault), func(t *testing.T) {
			n, f := newGitNode(t)
			f.Fail(tc.fault, "it has a reason")
			err := n.publishGit(t, liveUID, nil)
			wantCode(t, err, tc.want)
			if !strings.Contains(err.Error(), "it has a reason") || !strings.Contains(err.Error(), gitURL) {
				t.Errorf("%v: want the reason and the URL", err)
			}
		})
	}
}

func withSecret(namespace, token string) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) {
		r.VolumeContext[volume.AttrPodNamespace] = namespace
		r.Secrets = map[string]string{"token": token}
	}
}

// takesToken refuses every secret but one.
func takesToken(token string) func(gitwire.Request) *gitwire.Error {
	return func(r gitwire.Request) *gitwire.Error {
		if r.Credentials.Password == token {
			return nil
		}
		return &gitwire.Error{Fault: gitwire.Unauthorized, Message: "the server wants another secret"}
	}
}

func TestSecretsOfTwoNamespacesAreNotShared(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), map[string]string{"x": "y"})
	f.Judge(takesToken("right"))
	fixture.Must(t, n.publishGit(t, deadUID, withSecret("one", "right")))
	fixture.Must(t, n.publishGit(t, liveUID, withSecret("two", "right")))
	if got := len(n.pool.GitContents()); got != 2 {
		t.Errorf("%d contents, want one for each namespace", got)
	}
}

func TestWrongSecretIsRefusedBesideARightOne(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), map[string]string{"x": "y"})
	f.Judge(takesToken("right"))
	fixture.Must(t, n.publishGit(t, deadUID, withSecret("one", "right")))
	err := n.publishGit(t, liveUID, withSecret("one", "wrong"))
	wantCode(t, err, codes.PermissionDenied)
	if strings.Contains(err.Error(), "wrong") {
		t.Errorf("%v: the secret is told", err)
	}
	// kubelet calls again with what it has; no server is asked.
	asked := len(f.Requests())
	fixture.Must(t, n.publishGit(t, deadUID, withSecret("one", "right")))
	if got := len(f.Requests()); got != asked {
		t.Errorf("%d fetches, want %d", got, asked)
	}
}

// kubelet brings what the Secret has now each time it publishes the volume again.
func TestWrongSecretAfterRotationIsToldToThePod(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	f.Judge(takesToken("right"))
	again := func(token string) error {
		return n.publishGit(t, liveUID, func(r *csi.NodePublishVolumeRequest) {
			withSecret("one", token)(r)
			withShortPeriod(r)
		})
	}
	fixture.Must(t, again("right"))
	var told error
	fixture.Eventually(t, "the pod is told", func() bool { told = again("wr0ng"); return told != nil })
	wantCode(t, told, codes.Unavailable)
	for _, want := range []string{commitOf("a")[:12], "the server wants another secret", "Secret"} {
		if !strings.Contains(told.Error(), want) || strings.Contains(told.Error(), "wr0ng") {
			t.Errorf("%v: want %s, and no secret", told, want)
		}
	}
	n.wantFile(t, liveUID, "site/x", "one")
	stale := n.Publications.VolumesAt(n.Git.StaleTargets())
	if len(stale) != 1 || stale[0] != inlineHandle(liveUID) {
		t.Errorf("stale volumes are %q", stale)
	}

	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	fixture.Eventually(t, "the right secret is used", func() bool {
		fixture.Must(t, again("right"))
		got, err := os.ReadFile(filepath.Join(inlineTarget(n, liveUID), "site/x"))
		return err == nil && string(got) == "two"
	})
}

// withShortPeriod asks the server as often as a rule of these tests allows.
func withShortPeriod(r *csi.NodePublishVolumeRequest) {
	r.VolumeContext[volume.ParamPeriod] = "1s"
}

func TestRestartShowsTheLastContentWithoutTheServer(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	fixture.Must(t, n.publishGit(t, liveUID, nil))
	fixture.Must(t, n.unpublishHandle(t, inlineHandle(liveUID), inlineTarget(n, liveUID)))
	n.Git.Close()
	f.Fail(gitwire.Unreachable, "no route to host")
	n.startGit(t, f)
	fixture.Must(t, n.publishGit(t, liveUID, withShortPeriod))
	n.wantFile(t, liveUID, "site/x", "one")
	fixture.Eventually(t, "the content is stale", func() bool {
		resp, err := n.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{
			VolumeId: inlineHandle(liveUID), VolumePublishPath: inlineTarget(n, liveUID),
		})
		return err == nil && len(resp.GetVolumeHealth().GetHealthStatuses()) == 1 &&
			strings.Contains(resp.GetVolumeHealth().GetHealthStatuses()[0].GetMessage(), "no route to host")
	})
	// kubelet asks again, and makes an event of the pod from the error.
	again := func() error { return n.publishGit(t, liveUID, withShortPeriod) }
	err := again()
	wantCode(t, err, codes.Unavailable)
	for _, want := range []string{commitOf("a")[:12], "no route to host", gitURL} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %s", err, want)
		}
	}
	n.wantFile(t, liveUID, "site/x", "one")
	fixture.Must(t, again()) // it is told once
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	fixture.Eventually(t, "the pod sees the push", func() bool {
		got, err := os.ReadFile(filepath.Join(inlineTarget(n, liveUID), "site/x"))
		return err == nil && string(got) == "two"
	})
}

// kubelet publishes again what a pod shows. The pod's token has run out meanwhile.
func TestRestartTakesUpWhatPodsShow(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	fixture.Must(t, n.publishGit(t, liveUID, withSecret("one", "right")))
	n.writeKubeletData(t, liveUID)
	f.Judge(takesToken("other"))
	n.restartGit(t, f)
	fixture.Must(t, n.publishGit(t, liveUID, withSecret("one", "right")))
	n.wantFile(t, liveUID, "site/x", "one")
	fixture.Must(t, n.unpublishHandle(t, inlineHandle(liveUID), inlineTarget(n, liveUID)))
	if got := mountsBelow(t, n.KubeletDir); len(got) != 0 {
		t.Errorf("mounts are left: %v", got)
	}
}

// writeKubeletData writes what kubelet keeps beside a target.
func (n *node) writeKubeletData(t *testing.T, uid string) {
	t.Helper()
	text := `{"driverName": "hostpath.csi.local", "volumeHandle": "` + inlineHandle(uid) + `"}`
	fixture.Must(t, os.WriteFile(filepath.Join(filepath.Dir(inlineTarget(n, uid)), kubeletData),
		[]byte(text), 0o600))
}

// The node has been rebooted, and neither the server nor the fetcher is there yet.
func TestRebootWithoutTheFetcherShowsWhatTheNodeHas(t *testing.T) {
	n, f := newGitNode(t)
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	private := withSecret("one", "right")
	fixture.Must(t, n.publishGit(t, liveUID, nil))
	fixture.Must(t, n.publishGit(t, deadUID, private))
	unmountBelow(t, n.KubeletDir)
	n.restartGit(t, &fixture.Fetcher{Socket: filepath.Join(t.TempDir(), "absent")})
	fixture.Must(t, n.publishGit(t, liveUID, nil))
	fixture.Must(t, n.publishGit(t, deadUID, private))
	n.wantFile(t, liveUID, "site/x", "one")
	n.wantFile(t, deadUID, "site/x", "one")
	n.wantFile(t, deadUID, volume.GitCommitFile, commitOf("a")+"\n")

	fixture.Must(t, n.unpublishHandle(t, inlineHandle(liveUID), inlineTarget(n, liveUID)))
	err := n.publishGit(t, liveUID, func(r *csi.NodePublishVolumeRequest) {
		r.VolumeContext[volume.ParamRef] = "other"
	})
	wantCode(t, err, codes.Unavailable)
	for _, want := range []string{gitURL, "ref other", "does the container with the fetcher run?"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %s", err, want)
		}
	}
}

// The disk of the pool dies under the pods.
func TestContentOfADeadDiskIsUnpublished(t *testing.T) {
	disk := disks.New(t, disks.XFS, 0)
	n := newNodeWith(t, pool.Options{Path: filepath.Join(disk.Dir, "pool")})
	f := fixture.NewFetcher(t)
	n.startGit(t, f)
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	fixture.Must(t, n.publishGit(t, liveUID, withShortPeriod))
	disk.Shutdown(t)
	f.Commit(commitOf("b"), map[string]string{"x": "two"})
	for _, uid := range []string{liveUID, deadUID} {
		if err := n.publishGit(t, uid, withShortPeriod); err == nil {
			t.Errorf("pod %s is shown what cannot be read", uid)
		}
	}
	n.SweepInline(t.Context())
	for range 2 {
		fixture.Must(t, n.unpublishHandle(t, inlineHandle(liveUID), inlineTarget(n, liveUID)))
	}
	if got := mountsBelow(t, n.KubeletDir); len(got) != 0 {
		t.Errorf("mounts are left: %v", got)
	}
}
