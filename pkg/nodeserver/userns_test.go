package nodeserver

import (
	"cmp"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/pod"
)

const (
	podUser  = 1000
	podGroup = 2000 // the fsGroup
)

// mapped is what a pod with hostUsers: false sees of a volume.
type mapped struct {
	t      *testing.T
	target string // where the driver has published the volume
	// volume is what the pod has, open.
	volume    *os.File
	namespace pod.UserNamespace
	// group is the fsGroup for which the volume is published; 0 is none.
	group uint32
}

// TestPodInAUserNamespaceHasItsIDsInEachVolume: the runtime maps the IDs of a pod with hostUsers:
// false by the mount. What the pod's root makes is root's in the volume, and what its user makes is
// the user's, so a pod without a user namespace, or with another one, finds the same owners.
func TestPodInAUserNamespaceHasItsIDsInEachVolume(t *testing.T) {
	disks.RequireMachineRoot(t)
	for _, fstype := range disks.Types() {
		n := newNodeWith(t, pool.Options{Path: filepath.Join(disks.New(t, fstype, 0).Dir, "pool")})
		for _, kind := range volume.ManagedTypes() {
			t.Run(fstype+" "+string(kind), func(t *testing.T) {
				n.useMapped(t, n.create(t, "v-"+string(kind), kind))
			})
		}
	}
	onEachFilesystem(t, func(n *imageNode) {
		fixture.Must(n.t, n.stage())
		n.useMapped(n.t, n.id)
		fixture.Must(n.t, n.unstage())
	})
	for name, attributes := range map[string]map[string]string{
		"inline": nil, "in memory": {"medium": "Memory", "size": "1Mi"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			const uid = "6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7a2f1"
			fixture.Must(t, n.publishInline(t, uid, attributes))
			mapped{t: t, target: inlineTarget(n, uid)}.use()
		})
	}
}

// useMapped publishes a volume for a pod with an fsGroup, and has the pod use it.
func (n *node) useMapped(t *testing.T, id volume.ID) {
	t.Helper()
	req := n.publishRequest(id, "pod")
	req.GetVolumeCapability().GetMount().VolumeMountGroup = strconv.Itoa(podGroup)
	fixture.Must(t, n.publish(t, req))
	mapped{t: t, target: n.target("pod"), group: podGroup}.use()
	fixture.Must(t, n.unpublish(t, id, "pod"))
}

// use shows the volume to the pod, and looks at the owners of what the pod makes.
func (m mapped) use() {
	m.t.Helper()
	info, err := os.Stat(m.target)
	fixture.Must(m.t, err)
	path := filepath.Join(m.t.TempDir(), "container")
	if info.IsDir() {
		fixture.Must(m.t, os.Mkdir(path, 0o700))
	} else {
		fixture.Must(m.t, os.WriteFile(path, nil, 0o600))
	}
	m.namespace = pod.NewUserNamespace(m.t)
	fixture.Must(m.t, m.namespace.Mount(m.target, path))
	defer func() { fixture.Must(m.t, unix.Unmount(path, unix.MNT_DETACH)) }()
	m.volume, err = os.Open(path)
	fixture.Must(m.t, err)
	defer m.volume.Close()
	if !info.IsDir() {
		m.run(podUser, "echo written >\"$v\" && cat \"$v\"")
		m.wantOwner("", 0, podGroup)
		return
	}
	m.run(0, "touch \"$v/roots\" && mkdir \"$v/mine\" && chown 1000:1000 \"$v/mine\"")
	m.run(podUser, "touch \"$v/users\" && echo written >\"$v/mine/file\" && cat \"$v/mine/file\"")
	m.wantOwner("roots", 0, m.group)
	m.wantOwner("users", podUser, cmp.Or(m.group, podUser))
	m.wantOwner("mine", podUser, podUser)
	m.wantOwner("mine/file", podUser, podUser)
}

// run runs a command in the pod, which says "written" if it is the user's.
func (m mapped) run(id uint32, command string) {
	m.t.Helper()
	out, err := m.namespace.Shell(m.t, m.volume, id, podGroup, command)
	if err != nil {
		m.t.Errorf("as %d: %s: %v", id, command, err)
	} else if id == podUser && out != "written" {
		m.t.Errorf("as %d: %s: it says %q", id, command, out)
	}
}

// wantOwner looks at what is in the volume, not as the pod sees it.
func (m mapped) wantOwner(name string, uid, gid uint32) {
	m.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(m.target, name), &st); err != nil || st.Uid != uid ||
		st.Gid != gid {
		m.t.Errorf("%q belongs to %d:%d in the volume, %v, want %d:%d", name, st.Uid, st.Gid, err, uid,
			gid)
	}
}
