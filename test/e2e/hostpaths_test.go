//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// hostFiles are the paths of a node that the tests' rules (install_test.go) allow, and some that
// they do not.
type hostFiles struct {
	t    *testing.T
	node *cluster.Node
}

// newHostFiles makes what every type wants to find, on a node that no other test has for this.
func newHostFiles(t *testing.T, node *cluster.Node) hostFiles {
	t.Helper()
	h := hostFiles{t: t, node: node}
	for _, dir := range []string{"shared", "team", "closed"} {
		h.must(os.RemoveAll(h.path("/srv/" + dir))) // of an earlier run on a cluster that was kept
	}
	for _, dir := range []string{
		"shared/dir", "shared/inline", "shared/pv", "shared/class", "shared/private", "models", "team", "closed",
	} {
		h.must(os.MkdirAll(h.path("/srv/"+dir), 0o755))
	}
	h.must(os.WriteFile(h.path("/srv/shared/file"), []byte("of the node\n"), 0o600))
	h.must(os.WriteFile(h.path("/srv/models/weights"), []byte("weights\n"), 0o644))
	h.must(os.Symlink("/etc", h.path("/srv/shared/link")))
	h.socket("/srv/shared/sock")
	h.device("/srv/null", unix.S_IFCHR, 1, 3)
	h.device("/srv/block", unix.S_IFBLK, 7, 0)
	return h
}

func (h hostFiles) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// path is where the test finds a path of the node.
func (h hostFiles) path(inside string) string {
	h.t.Helper()
	path, err := h.node.HostPath(inside)
	h.must(err)
	return path
}

func (h hostFiles) socket(inside string) {
	h.t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(h.t.Context(), "unix", h.path(inside))
	h.must(err)
	h.t.Cleanup(func() { _ = listener.Close() })
}

func (h hostFiles) device(inside string, kind, major, minor uint32) {
	h.t.Helper()
	err := unix.Mknod(h.path(inside), kind|0o600,
		int(unix.Mkdev(major, minor))) //nolint:gosec // two small numbers
	if !errors.Is(err, unix.EEXIST) {
		h.must(err)
	}
}

// owned is what `stat` says of a path of the node: kind, mode and owner.
func (h hostFiles) owned(inside string) string {
	h.t.Helper()
	out, err := h.node.Exec(h.t.Context(), "stat", "-c", "%F %a %u:%g", inside)
	h.must(err)
	return strings.TrimSpace(out)
}

// flow is a YAML flow mapping of strings, given in pairs.
func flow(pairs ...string) string {
	var entries []string
	for i := 0; i+1 < len(pairs); i += 2 {
		entries = append(entries, fmt.Sprintf("%s: %q", pairs[i], pairs[i+1]))
	}
	return "{" + strings.Join(entries, ", ") + "}"
}

// withInline adds an inline volume to a pod; the attributes are pairs.
func (p podSpec) withInline(name, path string, attributes ...string) podSpec {
	return p.with(
		fmt.Sprintf("{name: %s, csi: {driver: %s, volumeAttributes: %s}}", name, driverName,
			flow(attributes...)),
		fmt.Sprintf("{name: %s, mountPath: %s}", name, path),
	)
}

// withReadOnly adds a path of the node that the pod cannot write to, inline.
func (p podSpec) withReadOnly(name, path string, attributes ...string) podSpec {
	return p.with(
		fmt.Sprintf("{name: %s, csi: {driver: %s, readOnly: true, volumeAttributes: %s}}", name,
			driverName, flow(attributes...)),
		fmt.Sprintf("{name: %s, mountPath: %s}", name, path),
	)
}

// with adds a volume, and where it is mounted, as Kubernetes writes both.
func (p podSpec) with(source, mount string) podSpec {
	p.volumes = append(slices.Clip(p.volumes), source)
	p.volumeMounts = append(slices.Clip(p.volumeMounts), mount)
	return p
}

// staticVolume is a PersistentVolume that an administrator writes for a path of a node, and its
// claim.
func staticVolume(t *testing.T, ns, name string, node *cluster.Node, attributes ...string) string {
	t.Helper()
	pv := ns + "-" + name
	t.Cleanup(func() { kubectl(t, "delete", "pv", pv, "--ignore-not-found", "--wait=false") })
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef: {namespace: %[2]s, name: %[3]s}
  csi: {driver: %[4]s, volumeHandle: %[1]s, volumeAttributes: %[5]s}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: topology.%[4]s/node, operator: In, values: [%[6]s]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[3]s}
spec:
  storageClassName: ""
  volumeName: %[1]s
  accessModes: [ReadWriteMany]
  resources: {requests: {storage: 1Mi}}
`, pv, ns, name, driverName, flow(attributes...), node.Name())
}

// typesOfPaths says for each type what the node has for it, below /srv, and how the shell asks for
// it. A "%s" is the way in which the path comes to the pod.
var typesOfPaths = map[volume.Type]struct{ path, test string }{
	volume.DirectoryOrCreate: {"/srv/shared/%s/made/deep", "-d"},
	volume.FileOrCreate:      {"/srv/shared/%s/newfile", "-f"},
	volume.Directory:         {"/srv/shared/dir", "-d"},
	volume.File:              {"/srv/shared/file", "-f"},
	volume.Socket:            {"/srv/shared/sock", "-S"},
	volume.CharDevice:        {"/srv/null", "-c"},
	volume.BlockDevice:       {"/srv/block", "-b"},
}

// TestEveryHostPathTypeComesToAPodInThreeWays: as a PersistentVolume that somebody wrote, as a
// class, and inline. The pod has an fsGroup, which must change nothing of the node.
func TestEveryHostPathTypeComesToAPodInThreeWays(t *testing.T) {
	t.Parallel()
	h, ns := newHostFiles(t, testCluster.Nodes()[0]), newNamespace(t)
	before := h.owned("/srv/shared/dir") + h.owned("/srv/shared/file")
	p := podSpec{node: h.node.Name(), security: "{fsGroup: 2000}"}
	var manifests, checks strings.Builder
	for kind, way := range typesOfPaths {
		for _, by := range []string{"pv", "class", "inline"} {
			name := by + "-" + strings.ToLower(string(kind))
			path := strings.Replace(way.path, "%s", by, 1)
			switch attributes := []string{"path", path, "type", string(kind)}; by {
			case "inline":
				p = p.withInline(name, "/"+name, attributes...)
			case "pv":
				manifests.WriteString(staticVolume(t, ns, name, h.node, attributes...))
			default:
				class(t, ns+"-"+name, attributes...)
				manifests.WriteString(claim(name, ns+"-"+name, "1Mi"))
			}
			if by != "inline" {
				m := mounts(name, "/"+name)
				p = p.with(m.volumes[0], m.volumeMounts[0])
			}
			fmt.Fprintf(&checks, "test %s /%s || echo /%s; ", way.test, name, name)
		}
	}
	apply(t, ns, manifests.String()+pod("app", p))
	waitReady(t, ns, "app")
	if wrong := sh(t, ns, "app", checks.String()); wrong != "" {
		t.Errorf("these are not what they should be: %s", wrong)
	}
	sh(
		t,
		ns,
		"app",
		"echo first >/pv-directory/new.tmp; mv /pv-directory/new.tmp /pv-directory/new; echo second >>/class-directory/new",
	)
	if got := sh(t, ns, "app", "cat /inline-directory/new"); got != "first\nsecond" {
		t.Errorf("the same directory has %q", got)
	}
	deletePod(t, ns, "app")
	kubectl(t, "-n", ns, "delete", "pvc", "--all", "--timeout=180s")
	if after := h.owned("/srv/shared/dir") + h.owned("/srv/shared/file"); after != before {
		t.Errorf("the node's files are %s, and were %s", after, before)
	}
	for _, by := range []string{"pv", "class", "inline"} {
		for path, want := range map[string]string{
			"/made": "directory 755 0:0", "/made/deep": "directory 755 0:0", "/newfile": "regular empty file 644 0:0",
		} {
			if got := h.owned("/srv/shared/" + by + path); got != want {
				t.Errorf("%s was made by the %s as %q, want %q, and stays", path, by, got, want)
			}
		}
	}
}

// refusal is a pod that cannot start, and what its events say.
type refusal struct {
	name       string
	attributes []string
	want       []string
}

// TestRefusedHostPathSaysWhyInThePodsEvents shows each refusal where users look for it.
func TestRefusedHostPathSaysWhyInThePodsEvents(t *testing.T) {
	t.Parallel()
	h, ns := newHostFiles(t, testCluster.Nodes()[1]), newNamespace(t)
	refusals := []refusal{
		{
			"missing",
			[]string{"path", "/srv/shared/none", "type", "File"},
			[]string{"host path /srv/shared/none does not exist; required:"},
		},
		{"wrong-type", []string{"path", "/srv/shared/sock", "type", "Directory"}, []string{
			"host path /srv/shared/sock is a socket, type Directory wants a directory",
		}},
		{
			"no-rule",
			[]string{"path", "/opt/x", "type", "Directory"},
			[]string{
				"no hostPaths rule allows Directory /opt/x to a pod of namespace",
				"there is none for the path or a directory above it",
			},
		},
		{
			"namespace",
			[]string{"path", "/srv/team", "type", "Directory"},
			[]string{"the one for /srv/team is for the namespaces [kube-system]"},
		},
		{
			"inline",
			[]string{"path", "/srv/closed", "type", "Directory"},
			[]string{"the one for /srv/closed does not set inline: true"},
		},
		{
			"device",
			[]string{"path", "/srv/shared/dir", "type", "BlockDevice"},
			[]string{"the one for /srv/shared names no device types"},
		},
		{
			"writable",
			[]string{"path", "/srv/models", "type", "Directory"},
			[]string{
				"host path /srv/models is read-only by the hostPaths rule for /srv/models, and the pod's volume is not: " +
					"set csi.readOnly: true in the pod's volumes",
			},
		},
		{
			"link",
			[]string{"path", "/srv/shared/link/passwd", "type", "File"},
			[]string{"/srv/shared/link/passwd leads through a symbolic link"},
		},
		{
			"parent",
			[]string{"path", "/srv/shared/none/file", "type", "FileOrCreate"},
			[]string{"host path /srv/shared/none/file does not exist"},
		},
		{
			"dots",
			[]string{"path", "/srv/shared/../team", "type", "Directory"},
			[]string{`want a path without \".\", \"..\"`},
		},
		{
			"no-type",
			[]string{"path", "/srv/shared"},
			[]string{`parameter \"path\" needs \"type\" beside it`},
		},
		{"typo", []string{"paht", "/srv/shared"}, []string{`unknown parameter \"paht\"; known: `}},
		{
			"no-size",
			[]string{"medium", "Memory"},
			[]string{`attribute \"medium\" is Memory: that needs \"size\"`},
		},
		{"no-pool", []string{"pool", "none"}, []string{"none"}},
		{
			"forged",
			[]string{
				"path",
				"/srv/team",
				"type",
				"Directory",
				"csi.storage.k8s.io/pod.namespace",
				"kube-system",
			},
			[]string{
				fmt.Sprintf("to a pod of namespace %q", ns), "namespaces [kube-system]",
			},
		},
	}
	here := podSpec{node: h.node.Name()}
	var manifests strings.Builder
	manifests.WriteString(pod("reader",
		here.withReadOnly("data", "/data", "path", "/srv/models", "type", "Directory")))
	manifests.WriteString(pod("maker",
		here.withReadOnly("data", "/data", "path", "/srv/models/new", "type", "DirectoryOrCreate")))
	for _, r := range refusals {
		manifests.WriteString(pod(r.name, here.withInline("data", "/data", r.attributes...)))
	}
	class(t, ns, "path", "/srv/none", "type", "Directory")
	manifests.WriteString(claim("claim", ns, "1Mi") + pod("claim", mounts("claim", "/data")))
	apply(t, ns, manifests.String())
	for _, r := range refusals {
		for _, want := range append(r.want, "FailedMount") {
			eventually(t, readyTimeout, func() error { return saysEvent(t, ns, r.name, want) })
		}
	}
	eventually(t, readyTimeout, func() error {
		return saysEvent(t, ns, "maker", "host path /srv/models/new does not exist, and nothing is made there: "+
			"the hostPaths rule for /srv/models is read-only")
	})
	// A class's path is checked before there is a volume.
	eventually(
		t,
		readyTimeout,
		func() error { return describes(t, ns, "pvc", "claim", "no hostPaths rule allows Directory /srv/none") },
	)
	waitReady(t, ns, "reader")
	if got := sh(t, ns, "reader", "cat /data/weights"); got != "weights" {
		t.Errorf("the reader reads %q", got)
	}
	if err := shError(
		t,
		ns,
		"reader",
		"echo x >/data/weights",
	); !strings.Contains(
		err.Error(), "Read-only file system",
	) {
		t.Errorf("writing below a read-only rule says %v", err)
	}
}

// saysEvent is an error unless an event of the pod does. The words are compared as Kubernetes
// prints them, quotes escaped or not.
func saysEvent(t *testing.T, ns, name, want string) error {
	t.Helper()
	out := kubectl(t, "-n", ns, "describe", "pod", name)
	if unquote := strings.NewReplacer(
		`\\"`,
		`"`,
		`\"`,
		`"`,
	); !strings.Contains(
		unquote.Replace(out), unquote.Replace(want),
	) {
		return fmt.Errorf("the events of pod %s do not say %q:\n%s", name, want, out)
	}
	return nil
}

// TestHostPathAndEmptyDirSideBySide mounts the same things into one pod twice, by Kubernetes' own
// means and by this driver's.
func TestHostPathAndEmptyDirSideBySide(t *testing.T) {
	t.Parallel()
	h, ns := newHostFiles(t, testCluster.Nodes()[2]), newNamespace(t)
	p := podSpec{node: h.node.Name(), security: "{fsGroup: 2000}"}
	for name, made := range map[string]struct{ path, kind string }{
		"dir": {"/srv/shared/dir", "Directory"}, "made": {"/srv/shared/NAME/made", "DirectoryOrCreate"},
		"file": {"/srv/shared/file", "File"}, "newfile": {"/srv/shared/NAME/newfile", "FileOrCreate"}, "sock": {"/srv/shared/sock", "Socket"},
	} {
		for _, by := range []string{"theirs", "ours"} {
			h.must(os.MkdirAll(h.path("/srv/shared/"+by), 0o755))
			path := strings.Replace(made.path, "NAME", by, 1)
			if by == "ours" {
				p = p.withInline("ours-"+name, "/ours/"+name, "path", path, "type", made.kind)
				continue
			}
			p = p.with(
				fmt.Sprintf("{name: theirs-%s, hostPath: {path: %s, type: %s}}", name, path, made.kind),
				fmt.Sprintf("{name: theirs-%s, mountPath: /theirs/%s}", name, name),
			)
		}
	}
	p = p.withInline("ours-empty",
		"/ours/empty").withInline("ours-memory", "/ours/memory", "medium", "Memory", "size", "1Mi")
	p = p.with("{name: theirs-empty, emptyDir: {}}", "{name: theirs-empty, mountPath: /theirs/empty}")
	p = p.with("{name: theirs-memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}",
		"{name: theirs-memory, mountPath: /theirs/memory}")
	apply(t, ns, pod("app", p))
	waitReady(t, ns, "app")

	sh(
		t,
		ns,
		"app",
		"echo one >/theirs/dir/one; echo two >/ours/dir/two; echo three >>/theirs/file; echo four >>/ours/file",
	)
	for _, by := range []string{"theirs", "ours"} {
		if got := sh(
			t,
			ns,
			"app",
			"cd /"+by+"; cat dir/one dir/two file",
		); got != "one\ntwo\nof the node\nthree\nfour" {
			t.Errorf("%s: the files have %q", by, got)
		}
	}
	// The same modes and owners, fsGroup included, which is for what is made for the pod; but a
	// tmpfs of Kubernetes' is sticky.
	const look = "cd /%s; stat -c '%%n %%F %%a %%u:%%g' dir made file newfile sock empty memory"
	theirs, ours := sh(t, ns, "app",
		fmt.Sprintf(look, "theirs")), sh(t, ns, "app", fmt.Sprintf(look, "ours"))
	if strings.Replace(theirs, "memory directory 3777", "memory directory 2777", 1) != ours {
		t.Errorf("theirs:\n%s\nours:\n%s", theirs, ours)
	}
	for _, full := range []string{"theirs", "ours"} {
		err := shError(t, ns, "app", "dd if=/dev/zero of=/"+full+"/memory/file bs=1M count=4")
		if !strings.Contains(err.Error(), "No space left") {
			t.Errorf("%s: a full volume in memory says %v", full, err)
		}
	}
	deletePod(t, ns, "app")
	for _, by := range []string{"theirs", "ours"} {
		for _, path := range []string{"dir/one", "dir/two", by + "/made", by + "/newfile"} {
			if _, err := os.Lstat(h.path("/srv/shared/" + path)); err != nil {
				t.Errorf("%s is gone with the pod: %v", path, err)
			}
		}
	}
}

// TestFullVolumeIsAnErrorToItsWriterAndToNobodyElse: an emptyDir that grows beyond its limit ends
// its pod; an inline volume in a pool that holds sizes, and one in memory, tell the writer, and the
// neighbour goes on.
func TestFullVolumeIsAnErrorToItsWriterAndToNobodyElse(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	node := nodeWith(t, "btrfs")
	filler := podSpec{node: node.Name()}.withInline("data", "/data", "size", "64Mi").
		withInline("memory", "/memory", "medium", "Memory", "size", "1Mi")
	evicted := podSpec{
		node:    node.Name(),
		command: "dd if=/dev/zero of=/data/file bs=1M count=16; sleep 1000000",
	}.
		with("{name: data, emptyDir: {sizeLimit: 1Mi}}", "{name: data, mountPath: /data}")
	apply(t, ns, pod("filler", filler)+pod("evicted", evicted)+
		pod("neighbour", podSpec{node: node.Name()}.withInline("data", "/data", "size", "64Mi")))
	waitReady(t, ns, "filler", "neighbour")
	stop := startWriting(t, ns, "neighbour")
	for _, path := range []string{"/data", "/memory"} {
		if err := shError(
			t,
			ns,
			"filler",
			"dd if=/dev/zero of="+path+"/file bs=1M count=128 conv=fsync",
		); !isFull(
			err,
		) {
			t.Errorf("a full %s says %v", path, err)
		}
	}
	sh(t, ns, "filler", "rm /data/file; sync; echo again >/data/small")
	eventually(t, readyTimeout, func() error {
		return describes(t, ns, "pod", "evicted", `Usage of EmptyDir volume "data" exceeds the limit`)
	})
	const state = "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount}"
	if got := kubectl(t, "-n", ns, "get", "pod", "filler", "-o", state); got != "Running 0" {
		t.Errorf("the pod with the full volume is %q", got)
	}
	stop()
}

// nodeWith is the node whose pool is on that filesystem.
func nodeWith(t *testing.T, filesystem string) *cluster.Node {
	t.Helper()
	for _, n := range testCluster.Nodes() {
		if has, err := n.Filesystem(); err == nil && has == filesystem {
			return n
		}
	}
	t.Fatalf("no node has a pool on %s", filesystem)
	return nil
}

func TestInlineVolumeLivesAndDiesWithItsPod(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	p := podSpec{security: "{runAsUser: 1000, runAsNonRoot: true}"}
	p = p.withInline("data", "/data", "size",
		"32Mi").withInline("conf", "/conf", "type", "FileOrCreate", "mode", "0666", "size", "1Mi")
	p = p.withInline("memory", "/memory", "medium", "Memory", "size", "1Mi")
	apply(t, ns, pod("app", p))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "echo x >/data/file; echo y >/conf; echo z >/memory/file")
	machine := machineOf(t, ns, "app")
	if got := inlineVolumesOf(t, machine, ns); len(got) != 2 {
		t.Errorf("the pool has %q, want two volumes of the pod", got)
	}
	deletePod(t, ns, "app")
	eventually(t, readyTimeout, func() error {
		if left := inlineVolumesOf(t, machine, ns); len(left) > 0 {
			return fmt.Errorf("the pod is gone, and the pool has %q", left)
		}
		return nil
	})
}

// inlineVolumesOf lists the volumes of a pool whose record names a pod of that namespace.
func inlineVolumesOf(t *testing.T, n *cluster.Node, ns string) (volumes []string) {
	t.Helper()
	for _, name := range hostLs(t, n, volumesPath) {
		path, err := n.HostPath(filepath.Join(volumesPath, name, "volume.json"))
		if err != nil {
			t.Fatal(err)
		}
		record, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if strings.Contains(string(record), `"namespace": "`+ns+`"`) &&
			strings.Contains(string(record), `"podUid"`) {
			volumes = append(volumes, name)
		}
	}
	return volumes
}

// forceDelete makes Kubernetes forget a pod whose node does not answer.
func forceDelete(t *testing.T, ns, name string) {
	t.Helper()
	kubectl(t, "-n", ns, "delete", "pod", name, "--force", "--grace-period=0", "--timeout=60s")
}
