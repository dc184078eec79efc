package nodeserver

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// onePool implements Pools. One pool is open, and another one, closedPool, is not.
type onePool struct{ *pool.Pool }

func (p onePool) ByName(string) (*pool.Pool, error) { return p.Pool, nil }

func (p onePool) Open() []*pool.Pool { return []*pool.Pool{p.Pool} }

const closedPool = "cccccccccccc"

func (p onePool) ByID(id volume.PoolID) (*pool.Pool, error) {
	switch id {
	case p.ID():
		return p.Pool, nil
	case closedPool:
		return nil, fmt.Errorf("%w: its disk is not mounted", volume.ErrUnavailable)
	default:
		return nil, fmt.Errorf("%w: no pool %s", volume.ErrNotFound, id)
	}
}

func (p onePool) Known() []health.Pool { return []health.Pool{{Name: "p", Pool: p.Pool}} }

func (p onePool) Candidates(id volume.PoolID) ([]health.Pool, error) {
	switch id {
	case p.ID():
		return p.Known(), nil
	case closedPool:
		return []health.Pool{{Name: "closed", Reason: volume.ReasonNotMounted}}, nil
	default:
		return nil, fmt.Errorf("%w: no pool %s", volume.ErrNotFound, id)
	}
}

func (onePool) Use() func() { return func() {} }

// node is a Server with a pool and a directory that stands for kubelet's.
type node struct {
	*Server
	pool    *pool.Pool
	options pool.Options
}

func newNode(t *testing.T) *node {
	t.Helper()
	return newNodeWith(t, pool.Options{})
}

func newNodeWith(t *testing.T, opts pool.Options) *node {
	t.Helper()
	disks.RequireRoot(t)
	root := t.TempDir()
	if opts.Name = "p"; opts.Path == "" {
		opts.Path = filepath.Join(root, "pool")
	}
	p, err := pool.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	kubelet := filepath.Join(root, "kubelet dir") // the mount table escapes the blank
	n := &node{pool: p, options: opts}
	t.Cleanup(func() {
		unmountBelow(t, kubelet)
		if err := n.pool.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(kubelet, 0o755); err != nil {
		t.Fatal(err)
	}
	n.Server = New(Options{
		NodeName:     "node-1",
		KubeletDir:   kubelet,
		MaxVolumes:   7,
		Topology:     map[string]string{"topology.example/node": "node-1"},
		Pools:        onePool{p},
		Publications: NewPublications(),
	})
	return n
}

// reopen closes the pool, calls change, which may change the pool's directory, and opens the pool
// again.
func (n *node) reopen(t *testing.T, change func()) {
	t.Helper()
	if err := n.pool.Close(); err != nil {
		t.Fatal(err)
	}
	change()
	p, err := pool.Open(t.Context(), n.options)
	if err != nil {
		t.Fatal(err)
	}
	n.pool, n.Pools = p, onePool{p}
	n.restart(t)
}

// restart restarts the driver: everything that is only in memory is lost.
func (n *node) restart(t *testing.T) {
	t.Helper()
	n.Publications = NewPublications()
	if err := n.Publications.Rebuild(n.KubeletDir, n.pool); err != nil {
		t.Fatal(err)
	}
}

func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	for _, point := range slices.Backward(mountsBelow(t, dir)) {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			t.Errorf("unmount %s: %v", point, err)
		}
	}
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, dir+"/") {
			points = append(points, m.Point)
		}
	}
	return points
}

func (n *node) create(t *testing.T, name string, kind volume.Type) volume.ID {
	t.Helper()
	parsed, err := volume.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	v, err := n.pool.Create(t.Context(), volume.CreateRequest{
		Name: parsed,
		Size: volume.SizeRange{Required: 1 << 20},
		Spec: volume.Spec{Type: kind, Mode: 0o755},
	})
	if err != nil {
		t.Fatal(err)
	}
	return v.ID
}

func (n *node) target(pod string) string { return filepath.Join(n.KubeletDir, pod) }

const (
	multiWriter  = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	singleWriter = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
)

func capabilityOf(
	mode csi.VolumeCapability_AccessMode_Mode, flags ...string,
) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{
			Mount: &csi.VolumeCapability_MountVolume{MountFlags: flags},
		},
	}
}

func (n *node) publishRequest(id volume.ID, pod string) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId:          id.String(),
		TargetPath:        n.target(pod),
		StagingTargetPath: n.target("staging"),
		VolumeCapability:  capabilityOf(multiWriter),
	}
}

func (n *node) publish(t *testing.T, req *csi.NodePublishVolumeRequest) error {
	t.Helper()
	_, err := n.NodePublishVolume(t.Context(), req)
	return err
}

func (n *node) publishAs(
	t *testing.T, id volume.ID, pod string, mode csi.VolumeCapability_AccessMode_Mode,
) error {
	t.Helper()
	req := n.publishRequest(id, pod)
	req.VolumeCapability = capabilityOf(mode)
	return n.publish(t, req)
}

func (n *node) unpublish(t *testing.T, id volume.ID, pod string) error {
	t.Helper()
	_, err := n.NodeUnpublishVolume(t.Context(),
		&csi.NodeUnpublishVolumeRequest{VolumeId: id.String(), TargetPath: n.target(pod)})
	return err
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := rpc.Code(err); got != want {
		t.Errorf("%v is %s, want %s", err, got, want)
	}
	if err != nil && strings.Contains(err.Error(), "%!") {
		t.Errorf("%q has a fault of fmt.Errorf", err)
	}
}

// volumeOf looks a volume up, as a call to the driver does.
func volumeOf(t *testing.T, p *pool.Pool, id volume.ID) pool.Volume {
	t.Helper()
	v, err := p.Get(id)
	fixture.Must(t, err)
	return v
}

// checkDetached and checkUnused make the checks that DeleteVolume makes.
func (n *node) checkDetached(t *testing.T, id volume.ID) error {
	t.Helper()
	data, err := volumeOf(t, n.pool, id).Data()
	fixture.Must(t, err)
	defer data.Close()
	return image.CheckDetached(data)
}

func (n *node) checkUnused(t *testing.T, id volume.ID) error {
	t.Helper()
	data, err := volumeOf(t, n.pool, id).Data()
	fixture.Must(t, err)
	defer data.Close()
	return n.Publications.CheckUnused(id, data)
}

func TestPublishedVolumeIsSharedAndGone(t *testing.T) {
	for _, kind := range volume.ManagedTypes() {
		t.Run(string(kind), func(t *testing.T) {
			n := newNode(t)
			id := n.create(t, "v", kind)
			for range 2 {
				for _, pod := range []string{"a", "b"} {
					fixture.Must(t, n.publish(t, n.publishRequest(id, pod)))
				}
			}
			if got := mountsBelow(t, n.KubeletDir); len(got) != 2 {
				t.Errorf("mounted are %q", got)
			}
			suffix := map[volume.Type]string{volume.DirectoryOrCreate: "/file"}[kind]
			fixture.Must(t, os.WriteFile(n.target("a")+suffix, []byte("shared"), 0o600))
			if got, err := os.ReadFile(n.target("b") + suffix); string(got) != "shared" {
				t.Errorf("the other pod reads %q, %v", got, err)
			}
			for range 2 {
				for _, pod := range []string{"a", "b"} {
					fixture.Must(t, n.unpublish(t, id, pod))
				}
			}
			if got, err := os.ReadDir(n.KubeletDir); len(got) > 0 {
				t.Errorf("left are %v, %v", got, err)
			}
			fixture.Must(t, n.checkUnused(t, id))
		})
	}
}

func TestReadOnlyPublicationIsReadOnly(t *testing.T) {
	for _, tc := range []struct {
		title    string
		readonly bool
		c        *csi.VolumeCapability
	}{
		{"asked for", true, capabilityOf(multiWriter)},
		{"a reader's mode", false, capabilityOf(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY)},
		{"a flag", false, capabilityOf(multiWriter, "ro")},
	} {
		t.Run(tc.title, func(t *testing.T) {
			n := newNode(t)
			req := n.publishRequest(n.create(t, "v", volume.DirectoryOrCreate), "a")
			req.Readonly, req.VolumeCapability = tc.readonly, tc.c
			fixture.Must(t, n.publish(t, req))
			if err := os.WriteFile(
				filepath.Join(n.target("a"), "file"),
				nil,
				0o600,
			); !errors.Is(
				err, unix.EROFS,
			) {
				t.Errorf("%v, want EROFS", err)
			}
			req.Readonly, req.VolumeCapability = false, capabilityOf(multiWriter)
			wantCode(t, n.publish(t, req), codes.AlreadyExists)
		})
	}
}

// change makes one field of a correct request wrong. Empty fields change nothing.
type change struct {
	title                  string
	id, target, staging    string
	capability             *csi.VolumeCapability
	want                   codes.Code
	noCapability, emptyIDs bool
}

func TestBadRequestIsRefusedWithItsCode(t *testing.T) {
	n := newNode(t)
	good := n.create(t, "v", volume.DirectoryOrCreate)
	foreign := "ffffffffffff-v"
	for _, tc := range []change{
		{title: "no ID", emptyIDs: true, want: codes.InvalidArgument},
		{title: "hostile ID", id: string(good.Pool()) + "-../../../etc", want: codes.NotFound},
		{title: "no ID of ours", id: "fake-vol-id", want: codes.NotFound},
		{title: "endless ID", id: strings.Repeat("x", 1<<20), want: codes.InvalidArgument},
		{title: "ID of a snapshot", id: string(good.Pool()) + "-s-v", want: codes.NotFound},
		{title: "absent volume", id: string(good.Pool()) + "-absent", want: codes.NotFound},
		{title: "another node's pool", id: foreign, want: codes.NotFound},
		{title: "closed pool", id: closedPool + "-v", want: codes.Unavailable},
		{title: "target elsewhere", target: "/etc", staging: "/etc", want: codes.InvalidArgument},
		{title: "target with dots", target: n.target("a/../../../../etc"), staging: n.KubeletDir + "/..", want: codes.InvalidArgument},
		{title: "kubelet's directory itself", target: n.KubeletDir, staging: n.KubeletDir, want: codes.InvalidArgument},
		{title: "relative target", target: "a", staging: "a", want: codes.InvalidArgument},
		{title: "no capability", noCapability: true, want: codes.InvalidArgument},
		{title: "unknown flag", capability: capabilityOf(multiWriter, "suid"), want: codes.InvalidArgument},
		{title: "several nodes", capability: capabilityOf(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER), want: codes.InvalidArgument},
	} {
		t.Run(tc.title, func(t *testing.T) {
			publish, stage := n.publishRequest(good, "a"), &csi.NodeStageVolumeRequest{
				VolumeId:          good.String(),
				StagingTargetPath: n.target("staging"),
				VolumeCapability:  capabilityOf(multiWriter),
			}
			if tc.id != "" || tc.emptyIDs {
				publish.VolumeId, stage.VolumeId = tc.id, tc.id
			}
			if tc.target != "" {
				publish.TargetPath, stage.StagingTargetPath = tc.target, tc.staging
			}
			if tc.capability != nil || tc.noCapability {
				publish.VolumeCapability, stage.VolumeCapability = tc.capability, tc.capability
			}
			wantCode(t, n.publish(t, publish), tc.want)
			_, err := n.NodeStageVolume(t.Context(), stage)
			wantCode(t, err, tc.want)
			if tc.emptyIDs { // the same for a path of the host, whose ID may be any string but the empty one
				stage.VolumeContext = map[string]string{
					volume.ParamPath: "/srv",
					volume.ParamType: string(volume.Directory),
				}
				_, err := n.NodeStageVolume(t.Context(), stage)
				wantCode(t, err, tc.want)
			}
			if got, err := os.ReadDir(n.KubeletDir); len(got) > 0 {
				t.Errorf("left are %v, %v", got, err)
			}
		})
	}
}

func TestUnpublishNeedsNoPool(t *testing.T) {
	n := newNode(t)
	for _, tc := range []struct {
		title, id, target string
		want              codes.Code
	}{
		{"never published", n.create(t, "v", volume.DirectoryOrCreate).String(), n.target("a"), codes.OK},
		{"absent parent", string(n.pool.ID()) + "-v", n.target("a/b/c"), codes.OK},
		{"absent volume", string(n.pool.ID()) + "-absent", n.target("a"), codes.OK},
		{"another node's volume", "ffffffffffff-v", n.target("a"), codes.OK},
		{"volume of a closed pool", closedPool + "-v", n.target("a"), codes.OK},
		{"no ID", "", n.target("a"), codes.InvalidArgument},
		{"a handle that somebody wrote", string(n.pool.ID()) + "-../ü", n.target("a"), codes.OK},
		{"endless handle", strings.Repeat("x", 129), n.target("a"), codes.InvalidArgument},
		{"no target", string(n.pool.ID()) + "-v", "", codes.InvalidArgument},
		{"target elsewhere", string(n.pool.ID()) + "-v", "/etc", codes.InvalidArgument},
	} {
		t.Run(tc.title, func(t *testing.T) {
			_, err := n.NodeUnpublishVolume(t.Context(),
				&csi.NodeUnpublishVolumeRequest{VolumeId: tc.id, TargetPath: tc.target})
			wantCode(t, err, tc.want)
		})
	}
}

func TestStagingLeavesTheStagingPathAlone(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	path := n.target("staging")
	for range 2 {
		_, err := n.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
			VolumeId: id.String(), StagingTargetPath: path, VolumeCapability: capabilityOf(multiWriter),
		})
		fixture.Must(t, err)
	}
	for range 2 {
		_, err := n.NodeUnstageVolume(t.Context(),
			&csi.NodeUnstageVolumeRequest{VolumeId: id.String(), StagingTargetPath: path})
		fixture.Must(t, err)
	}
	for _, req := range []*csi.NodeUnstageVolumeRequest{
		{StagingTargetPath: path},
		{VolumeId: id.String()},
		{VolumeId: strings.Repeat("x", 129), StagingTargetPath: path},
	} {
		_, err := n.NodeUnstageVolume(t.Context(), req)
		wantCode(t, err, codes.InvalidArgument)
	}
	if got := mountsBelow(t, n.KubeletDir); len(got) > 0 {
		t.Errorf("mounted are %q", got)
	}
}

func TestStatsAreOfAPublishedVolumeOnly(t *testing.T) {
	n := newNode(t)
	id, other := n.create(t, "v", volume.DirectoryOrCreate), n.create(t, "w", volume.FileOrCreate)
	fixture.Must(t, n.publish(t, n.publishRequest(id, "a")))
	fixture.Must(t, n.publish(t, n.publishRequest(other, "b")))
	for _, tc := range []struct {
		title, id, path string
		want            codes.Code
	}{
		{"directory", id.String(), n.target("a"), codes.OK},
		{"file", other.String(), n.target("b"), codes.OK},
		{"at another's target", id.String(), n.target("b"), codes.NotFound},
		{"not published there", id.String(), n.target("c"), codes.NotFound},
		{"elsewhere", id.String(), "/etc", codes.NotFound},
		{"absent volume", string(id.Pool()) + "-absent", n.target("a"), codes.NotFound},
		{"no ID", "", n.target("a"), codes.InvalidArgument},
		{"a handle that somebody wrote", "..", n.target("a"), codes.NotFound},
		{"no path", id.String(), "", codes.InvalidArgument},
	} {
		t.Run(tc.title, func(t *testing.T) {
			resp, err := n.NodeGetVolumeStats(t.Context(),
				&csi.NodeGetVolumeStatsRequest{VolumeId: tc.id, VolumePath: tc.path})
			wantCode(t, err, tc.want)
			if err == nil {
				wantUsage(t, resp.GetUsage())
			}
		})
	}
}

func wantUsage(t *testing.T, usage []*csi.VolumeUsage) {
	t.Helper()
	units := map[csi.VolumeUsage_Unit]bool{}
	for _, u := range usage {
		units[u.GetUnit()] = true
		if u.GetTotal() < u.GetUsed() || u.GetUsed() < 0 || u.GetAvailable() < 0 ||
			u.GetAvailable() > u.GetTotal() {
			t.Errorf("usage is %v", u)
		}
	}
	if len(usage) != 2 || !units[csi.VolumeUsage_BYTES] || !units[csi.VolumeUsage_INODES] {
		t.Errorf("usage is %v, want bytes and inodes", usage)
	}
}

// Kubelet takes INVALID_ARGUMENT, OUT_OF_RANGE and NOT_FOUND for errors that no retry can cure, and
// RESOURCE_EXHAUSTED for one that may end when there is room again (k8s.io/kubernetes
// pkg/volume/csi/expander.go, isInfeasibleError).
func TestExpandAnswersWithItsCode(t *testing.T) {
	n := newNode(t)
	id := n.create(t, "v", volume.DirectoryOrCreate)
	fixture.Must(t, n.publishAs(t, id, "a", multiWriter))
	const size = 4 * mib
	for _, tc := range []struct {
		title           string
		id              string
		required, limit int64
		want            codes.Code
	}{
		{title: "more", required: size},
		{title: "the same again", required: size},
		{title: "less, at least", required: 1},
		{title: "nothing said"},
		{title: "less, at most", required: mib, limit: 2 * mib, want: codes.OutOfRange},
		{title: "no number", required: -1, want: codes.InvalidArgument},
		{title: "both more and less", required: 2 * size, limit: size, want: codes.OutOfRange},
		{title: "more than anything has", required: 1 << 61, want: codes.OutOfRange},
		{title: "more than there is room", required: 1 << 60, want: codes.ResourceExhausted},
		{title: "of another volume", id: string(n.pool.ID()) + "-absent", required: size, want: codes.NotFound},
		{title: "of an inline volume", id: "csi-0123", required: size, want: codes.NotFound},
	} {
		t.Run(tc.title, func(t *testing.T) {
			resp, err := n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
				VolumeId: cmp.Or(tc.id, id.String()), VolumePath: n.target("a"),
				CapacityRange: &csi.CapacityRange{RequiredBytes: tc.required, LimitBytes: tc.limit},
			})
			wantCode(t, err, tc.want)
			if got := resp.GetCapacityBytes(); err == nil && got != size {
				t.Errorf("it has %d bytes, want %d", got, int64(size))
			}
			if v, err := n.pool.Get(id); err != nil || v.CapacityBytes != size {
				t.Errorf("the volume is %+v, %v", v, err)
			}
		})
	}
	_, err := n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: id.String()})
	wantCode(t, err, codes.InvalidArgument)
}

func TestNodeSaysWhoAndWhereItIs(t *testing.T) {
	n := newNode(t)
	info, err := n.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetNodeId() != "node-1" || info.GetMaxVolumesPerNode() != 7 ||
		len(info.GetAccessibleTopology().GetSegments()) != 1 {
		t.Errorf("%v, %v", info, err)
	}
}

// The scheduler tries pods again that have waited for the driver only if the limit has risen, from
// none.
func TestNodeWithoutALimitOfVolumesSaysANumber(t *testing.T) {
	info, err := New(Options{NodeName: "node-1"}).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetMaxVolumesPerNode() != math.MaxInt32 {
		t.Errorf("%v, %v", info, err)
	}
}

// Calls that are advertised work, and all others answer UNIMPLEMENTED.
func TestNothingUnbuiltIsAdvertised(t *testing.T) {
	n := newNode(t)
	resp, err := n.NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	fixture.Must(t, err)
	var got []string
	for _, c := range resp.GetCapabilities() {
		got = append(got, c.GetRpc().GetType().String())
	}
	slices.Sort(got)
	want := []string{
		"EXPAND_VOLUME",
		"GET_STORAGE_HEALTH",
		"GET_VOLUME_HEALTH",
		"GET_VOLUME_STATS",
		"SINGLE_NODE_MULTI_WRITER",
		"STAGE_UNSTAGE_VOLUME",
		"VOLUME_MOUNT_GROUP",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the service advertises %q, want %q", got, want)
	}
}
