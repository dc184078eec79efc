package controllerserver

import (
	"context"
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
	"google.golang.org/protobuf/proto"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

const mib = 1 << 20

// somePools implements Pools. The first pool is the default. The pool "closed" with the ID
// closedPool is configured and not open.
type somePools []*pool.Pool

const closedPool = "cccccccccccc"

var errClosed = fmt.Errorf("%w: its disk is not mounted", volume.ErrUnavailable)

func (s somePools) ByID(id volume.PoolID) (*pool.Pool, error) {
	for _, p := range s {
		if p.ID() == id {
			return p, nil
		}
	}
	if id == closedPool {
		return nil, errClosed
	}
	return nil, fmt.Errorf("%w: no pool %s", volume.ErrNotFound, id)
}

func (s somePools) ByName(name string) (*pool.Pool, error) {
	for _, p := range s {
		if p.Name() == name || name == "" {
			return p, nil
		}
	}
	if name == "closed" {
		return nil, errClosed
	}
	return nil, fmt.Errorf("%w: no pool %s", volume.ErrNotFound, name)
}

func (somePools) Complete() error { return nil }

func (s somePools) Known() (known []health.Pool) {
	for _, p := range s {
		known = append(known, health.Pool{Name: p.Name(), Pool: p})
	}
	return known
}

func (s somePools) Candidates(id volume.PoolID) ([]health.Pool, error) {
	p, err := s.ByID(id)
	if err != nil {
		return nil, err
	}
	return []health.Pool{{Name: p.Name(), Pool: p}}, nil
}

func (s somePools) Open() []*pool.Pool {
	return slices.SortedFunc(slices.Values(s),
		func(a, b *pool.Pool) int { return strings.Compare(string(a.ID()), string(b.ID())) })
}

// published implements Publications. The volumes in it are published.
type published map[volume.ID]bool

func (p published) CheckUnused(_ context.Context, id volume.ID, _ *os.File) error {
	if p[id] {
		return fmt.Errorf("%w: volume %s is published", volume.ErrInUse, id)
	}
	return nil
}

type controller struct {
	*Server
	published published
	pools     somePools
}

// newController returns a controller with a pool for each name. The pool "shared" has
// allowMultiNode.
func newController(t *testing.T, names ...string) *controller {
	t.Helper()
	disks.RequireRoot(t)
	c := &controller{published: published{}}
	for _, name := range names {
		c.open(
			t,
			pool.Options{
				Name:           name,
				Path:           filepath.Join(t.TempDir(), name),
				AllowMultiNode: name == "shared",
			},
		)
	}
	c.Server = New(
		Options{
			Topology:     map[string]string{"topology.example/node": "node-1"},
			Pools:        c.pools,
			Publications: c.published,
		},
	)
	return c
}

// open adds a pool that stays open until the test ends.
func (c *controller) open(t *testing.T, opts pool.Options) {
	t.Helper()
	p, err := pool.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	c.pools = append(c.pools, p)
}

func mounted(mode csi.VolumeCapability_AccessMode_Mode) []*csi.VolumeCapability {
	return []*csi.VolumeCapability{{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	}}
}

func block() []*csi.VolumeCapability {
	caps := mounted(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	caps[0].AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	return caps
}

const (
	multiWriter  = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	severalNodes = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
)

func formatted(fsType string) []*csi.VolumeCapability {
	return []*csi.VolumeCapability{{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: multiWriter},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
	}}
}

func createRequest(name string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:               name,
		VolumeCapabilities: mounted(multiWriter),
		CapacityRange:      &csi.CapacityRange{RequiredBytes: mib},
	}
}

func (c *controller) create(t *testing.T, req *csi.CreateVolumeRequest) *csi.Volume {
	t.Helper()
	resp, err := c.CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetVolume()
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

func TestPoolThatIsMissingHereIsNoRoomAndNothingElse(t *testing.T) {
	c := newController(t, "p")
	_, err := c.CreateVolume(t.Context(), with(t, "v", map[string]string{"pool": "nope"}))
	wantCode(t, err, codes.ResourceExhausted)
	if err == nil || strings.Contains(err.Error(), "not found") {
		t.Errorf("%v: the message has the text of two sentinels", err)
	}
}

func TestVolumeSaysWhereItIs(t *testing.T) {
	c := newController(t, "p")
	v := c.create(t, createRequest("pvc-1"))
	topology := v.GetAccessibleTopology()
	if v.GetVolumeId() != string(c.pools[0].ID())+"-pvc-1" || v.GetCapacityBytes() != mib ||
		v.GetContentSource() != nil ||
		len(topology) != 1 ||
		topology[0].GetSegments()["topology.example/node"] != "node-1" {
		t.Errorf("the volume is %v", v)
	}
	if got, err := c.ControllerGetVolume(t.Context(),
		&csi.ControllerGetVolumeRequest{VolumeId: v.GetVolumeId()}); err != nil ||
		got.GetVolume().String() != v.String() {
		t.Errorf("the repeated call returns %v, %v", got, err)
	}
}

// Each row changes one part of a correct request.
func TestCreateAnswersWithItsCode(t *testing.T) {
	c := newController(t, "p", "shared")
	c.create(t, createRequest("taken"))
	oversized := map[string]string{}
	for i := range 1000 {
		oversized[fmt.Sprintf("key-%d", i)] = "value"
	}
	here, there := node("node-1"), node("node-2")
	for _, tc := range []struct {
		title string
		req   *csi.CreateVolumeRequest
		want  codes.Code
	}{
		{"nothing at all", &csi.CreateVolumeRequest{}, codes.InvalidArgument},
		{"no name", &csi.CreateVolumeRequest{VolumeCapabilities: mounted(multiWriter)}, codes.InvalidArgument},
		{"name of 129 bytes", with(t, strings.Repeat("x", 129)), codes.InvalidArgument},
		{"name of 128 bytes", with(t, strings.Repeat("x", 128)), codes.OK},
		{"hostile name", with(t, "../../../etc"), codes.OK},
		{"name with NUL", with(t, "a\x00b"), codes.InvalidArgument},
		{"name with a blank and a tab", with(t, "a b\tc"), codes.OK},
		{"name that is no UTF-8", with(t, "\xff"), codes.InvalidArgument},
		{"no capabilities", &csi.CreateVolumeRequest{Name: "v"}, codes.InvalidArgument},
		{"block", with(t, "block", block()), codes.OK},
		{"the same, with a filesystem", with(t, "block", formatted("xfs")), codes.AlreadyExists},
		{"block of a file", with(t, "v", block(), map[string]string{"type": "FileOrCreate"}), codes.InvalidArgument},
		{"block of a directory", with(t, "v", block(), map[string]string{"backing": "directory"}), codes.InvalidArgument},
		{"image", with(t, "image", map[string]string{"backing": "image"}), codes.OK},
		{"image by its filesystem", with(t, "xfs", formatted("xfs")), codes.OK},
		{"the same, of another filesystem", with(t, "xfs", formatted("ext4")), codes.AlreadyExists},
		{"the same, a directory", with(t, "xfs"), codes.AlreadyExists},
		{"directory with a filesystem", with(t, "v", formatted("xfs"), map[string]string{"backing": "directory"}), codes.InvalidArgument},
		{"unknown filesystem", with(t, "v", formatted("ntfs")), codes.InvalidArgument},
		{"two filesystems", with(t, "v", append(formatted("xfs"), formatted("ext4")...)), codes.InvalidArgument},
		{"filesystem and block", with(t, "v", append(formatted("xfs"), block()...)), codes.InvalidArgument},
		{"image that may not be large enough", with(t, "v", formatted("xfs"), &csi.CapacityRange{LimitBytes: mib}), codes.OutOfRange},
		{"preallocated directory", with(t, "v", map[string]string{"allocation": "preallocated"}), codes.InvalidArgument},
		{"several nodes", with(t, "v", mounted(severalNodes)), codes.InvalidArgument},
		{"several nodes where allowed", with(t, "several", mounted(severalNodes), map[string]string{"pool": "shared"}), codes.OK},
		{"zero size", with(t, "zero", &csi.CapacityRange{}), codes.OK},
		{"negative size", with(t, "v", &csi.CapacityRange{RequiredBytes: -1}), codes.InvalidArgument},
		{"negative limit", with(t, "v", &csi.CapacityRange{LimitBytes: math.MinInt64}), codes.InvalidArgument},
		{"limit below", with(t, "v", &csi.CapacityRange{RequiredBytes: 2, LimitBytes: 1}), codes.OutOfRange},
		{"size that no node has", with(t, "v", &csi.CapacityRange{RequiredBytes: volume.MaxCapacityBytes}), codes.ResourceExhausted},
		{"size that nothing has", with(t, "v", &csi.CapacityRange{RequiredBytes: math.MaxInt64}), codes.OutOfRange},
		{"taken, larger", with(t, "taken", &csi.CapacityRange{RequiredBytes: 2 * mib}), codes.AlreadyExists},
		{"taken, a file", with(t, "taken", map[string]string{"type": "FileOrCreate"}), codes.AlreadyExists},
		{"taken, the same", with(t, "taken"), codes.OK},
		{"unknown parameter", with(t, "v", map[string]string{"path": "/etc"}), codes.InvalidArgument},
		{"oversized parameters", with(t, "v", oversized), codes.InvalidArgument},
		{"bad mode", with(t, "v", map[string]string{"mode": "u+s"}), codes.InvalidArgument},
		{"unknown pool", with(t, "v", map[string]string{"pool": "elsewhere"}), codes.ResourceExhausted},
		{"hostile pool", with(t, "v", map[string]string{"pool": "../../etc"}), codes.ResourceExhausted},
		{"closed pool", with(t, "v", map[string]string{"pool": "closed"}), codes.Unavailable},
		{"copy of another node's volume", with(t, "v", copyOf("ffffffffffff-v")), codes.ResourceExhausted},
		{"copy of what a closed pool may have", with(t, "v", copyOf(closedPool+"-v")), codes.ResourceExhausted},
		{"this node", with(t, "here", &csi.TopologyRequirement{Requisite: []*csi.Topology{there, here}}), codes.OK},
		{"any node", with(t, "any", &csi.TopologyRequirement{}), codes.OK},
		{"preferred only", with(t, "preferred", &csi.TopologyRequirement{Preferred: []*csi.Topology{here}}), codes.OK},
		{"another node", with(t, "v", &csi.TopologyRequirement{Requisite: []*csi.Topology{there}}), codes.ResourceExhausted},
		{"unknown segment", with(t, "v", &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{"zone": "a"}}}}), codes.ResourceExhausted},
		{"from a snapshot", with(t, "v", &csi.VolumeContentSource{}), codes.InvalidArgument},
	} {
		t.Run(tc.title, func(t *testing.T) {
			_, err := c.CreateVolume(t.Context(), tc.req)
			wantCode(t, err, tc.want)
			if err != nil && err.Error() == "" {
				t.Error("the error says nothing")
			}
		})
	}
}

func node(name string) *csi.Topology {
	return &csi.Topology{Segments: map[string]string{"topology.example/node": name}}
}

// with returns a correct request with the given parts.
func with(t *testing.T, name string, parts ...any) *csi.CreateVolumeRequest {
	t.Helper()
	req := createRequest(name)
	for _, part := range parts {
		switch part := part.(type) {
		case []*csi.VolumeCapability:
			req.VolumeCapabilities = part
		case *csi.CapacityRange:
			req.CapacityRange = part
		case map[string]string:
			req.Parameters = part
		case *csi.TopologyRequirement:
			req.AccessibilityRequirements = part
		case *csi.VolumeContentSource:
			req.VolumeContentSource = part
		default:
			t.Fatalf("part %T is unknown", part)
		}
	}
	return req
}

func copyOf(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{
		Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
		},
	}
}

func TestUnknownMutableParametersAreRefused(t *testing.T) {
	c := newController(t, "p")
	req := createRequest("v")
	req.MutableParameters = map[string]string{"mode": "0700"}
	_, err := c.CreateVolume(t.Context(), req)
	wantCode(t, err, codes.InvalidArgument)
}

func TestDeleteAnswersWithItsCode(t *testing.T) {
	c := newController(t, "p")
	own := string(c.pools[0].ID())
	unused, used := c.create(t,
		createRequest("unused")).GetVolumeId(), c.create(t, createRequest("used")).GetVolumeId()
	id, err := volume.ParseID(used)
	if err != nil {
		t.Fatal(err)
	}
	c.published[id] = true
	for _, tc := range []struct {
		title, id string
		want      codes.Code
	}{
		{"published", used, codes.FailedPrecondition},
		{"not published", unused, codes.OK},
		{"again", unused, codes.OK},
		{"never there", own + "-never", codes.OK},
		{"no ID", "", codes.InvalidArgument},
		{"endless ID", strings.Repeat("x", 129), codes.InvalidArgument},
		// OK is safe: the driver has never given out such an ID, so no data can be left behind.
		{"no ID of ours", "pvc-1", codes.OK},
		{"hostile ID", own + "-../../../etc", codes.OK},
		{"ID of a snapshot", own + "-s-1", codes.OK},
		{"pool ID in capitals", strings.ToUpper(own) + "-published", codes.OK},
		{"reference", "host-0123456789ab-v", codes.OK},
		// The inline volume may exist. Its pod deletes it.
		{"inline volume", "csi-" + strings.Repeat("0", 64), codes.NotFound},
		// OK would be wrong: Kubernetes would forget the volume, and its data would stay on the other
		// node.
		{"another node's pool", "ffffffffffff-unused", codes.NotFound},
		{"closed pool", closedPool + "-unused", codes.Unavailable},
	} {
		t.Run(tc.title, func(t *testing.T) {
			_, err := c.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: tc.id})
			wantCode(t, err, tc.want)
		})
	}
	delete(c.published, id)
	_, err = c.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: used})
	wantCode(t, err, codes.OK)
}

func TestGetAnswersWithItsCode(t *testing.T) {
	c := newController(t, "p")
	own := string(c.pools[0].ID())
	for id, want := range map[string]codes.Code{
		c.create(t, createRequest("v")).GetVolumeId(): codes.OK,
		own + "-absent":     codes.NotFound,
		"ffffffffffff-v":    codes.NotFound,
		closedPool + "-v":   codes.Unavailable,
		"":                  codes.InvalidArgument,
		own + "-..":         codes.NotFound,
		"\xff\xfe-\x00":     codes.NotFound,
		own + "-s-snapshot": codes.NotFound,
		"fake-vol-id":       codes.NotFound,
	} {
		_, err := c.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
		wantCode(t, err, want)
		_, err = c.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: mounted(multiWriter),
		})
		wantCode(t, err, want)
	}
}

// A capability that the volume lacks is an answer, not an error.
func TestValidationConfirmsOnlyWhatHolds(t *testing.T) {
	c := newController(t, "p", "shared")
	id := c.create(t, createRequest("v")).GetVolumeId()
	shared := c.create(t, with(t, "v", map[string]string{"pool": "shared"})).GetVolumeId()
	xfs := c.create(t, with(t, "xfs", formatted("xfs"))).GetVolumeId()
	raw := c.create(t, with(t, "raw", block())).GetVolumeId()
	for _, tc := range []struct {
		title  string
		id     string
		caps   []*csi.VolumeCapability
		params map[string]string
		want   bool
	}{
		{"as it is", id, mounted(multiWriter), nil, true},
		{"with its parameters", id, mounted(multiWriter), map[string]string{"type": "DirectoryOrCreate", "pool": "p"}, true},
		{"with other parameters", id, mounted(multiWriter), map[string]string{"type": "FileOrCreate"}, false},
		{"in another pool", id, mounted(multiWriter), map[string]string{"pool": "shared"}, false},
		{"with unknown parameters", id, mounted(multiWriter), map[string]string{"x": "y"}, false},
		{"block", id, block(), nil, false},
		{"with a filesystem", id, formatted("xfs"), nil, false},
		{"image", xfs, formatted("xfs"), nil, true},
		{"image, whatever its filesystem", xfs, mounted(multiWriter), nil, true},
		{"image with its parameters", xfs, formatted("xfs"), map[string]string{"backing": "image"}, true},
		{"image with another filesystem", xfs, formatted("ext4"), nil, false},
		{"image as a block", xfs, block(), nil, false},
		{"a raw block volume", raw, block(), nil, true},
		{"a raw block volume, mounted", raw, mounted(multiWriter), nil, false},
		{"one good and one bad", id, append(mounted(multiWriter), block()...), nil, false},
		{"several nodes", id, mounted(severalNodes), nil, false},
		{"several nodes where allowed", shared, mounted(severalNodes), nil, true},
	} {
		t.Run(tc.title, func(t *testing.T) {
			resp, err := c.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId:           tc.id,
				VolumeCapabilities: tc.caps,
				Parameters:         tc.params,
				VolumeContext:      map[string]string{"k": "v"},
			})
			if err != nil {
				t.Fatal(err)
			}
			confirmed := resp.GetConfirmed()
			if (confirmed != nil) != tc.want || (resp.GetMessage() != "") == tc.want {
				t.Errorf("confirmed is %v with message %q, want confirmed: %v",
					confirmed, resp.GetMessage(), tc.want)
			}
			if tc.want &&
				(len(confirmed.GetVolumeCapabilities()) != len(tc.caps) ||
					confirmed.GetVolumeContext()["k"] != "v") {
				t.Errorf("confirmed is %v, want the request's parts", confirmed)
			}
		})
	}
	_, err := c.ValidateVolumeCapabilities(t.Context(),
		&csi.ValidateVolumeCapabilitiesRequest{VolumeId: id})
	wantCode(t, err, codes.InvalidArgument)
}

// The pool of the test counts sizes only, so the volume is an image.
func TestEnforcedSizeIsAnsweredTwiceAlike(t *testing.T) {
	c := newController(t, "p")
	params := map[string]string{"backing": "enforced"}
	var first *csi.Volume
	for range 2 {
		resp, err := c.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
			Name: "v", VolumeCapabilities: mounted(multiWriter), Parameters: params,
			CapacityRange: &csi.CapacityRange{RequiredBytes: mib},
		})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = resp.GetVolume()
		}
		if v := resp.GetVolume(); !proto.Equal(v, first) ||
			v.GetCapacityBytes() != volume.Ext4.MinimumBytes() {
			t.Errorf("the answer is %v, first %v, want an image of the smallest size", v, first)
		}
	}
	for backing, confirmed := range map[string]bool{
		"enforced": true, "image": false, "directory": false,
	} {
		resp, err := c.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: first.GetVolumeId(), VolumeCapabilities: mounted(multiWriter),
			Parameters: map[string]string{"backing": backing},
		})
		if err != nil || (resp.GetConfirmed() != nil) != confirmed {
			t.Errorf("as %s: %v, %v, want confirmed: %t", backing, resp, err, confirmed)
		}
	}
}

func TestCapacityIsWhatTheNextVolumeMayHave(t *testing.T) {
	c := newController(t, "p", "shared")
	for _, tc := range []struct {
		title  string
		params map[string]string
		where  *csi.Topology
		caps   []*csi.VolumeCapability
		some   bool
		want   codes.Code
	}{
		{title: "default pool", some: true},
		{title: "named pool", params: map[string]string{"pool": "shared"}, some: true},
		{title: "this node", where: node("node-1"), some: true},
		{title: "another node", where: node("node-2")},
		{title: "unknown pool", params: map[string]string{"pool": "elsewhere"}},
		{title: "closed pool", params: map[string]string{"pool": "closed"}},
		{title: "possible access", caps: mounted(multiWriter), some: true},
		{title: "several nodes", caps: mounted(severalNodes)},
		{title: "several nodes where allowed", caps: mounted(severalNodes), params: map[string]string{"pool": "shared"}, some: true},
		// CreateVolume returns the error
		{title: "bad parameter", params: map[string]string{"x": "y"}, some: true},
		{title: "block", caps: block(), some: true},
		{title: "inodes where they cannot be limited", params: map[string]string{"inodes": "100"}},
		{title: "bad capability", caps: formatted("ntfs"), want: codes.InvalidArgument},
	} {
		t.Run(tc.title, func(t *testing.T) {
			resp, err := c.GetCapacity(t.Context(), &csi.GetCapacityRequest{
				Parameters: tc.params, AccessibleTopology: tc.where, VolumeCapabilities: tc.caps,
			})
			wantCode(t, err, tc.want)
			if err != nil {
				return
			}
			if (resp.GetAvailableCapacity() > 0) != tc.some ||
				resp.GetMaximumVolumeSize().GetValue() != resp.GetAvailableCapacity() {
				t.Errorf("capacity is %v, want more than 0: %v", resp, tc.some)
			}
		})
	}
}

func TestCapacitySaysTheLeastThatAnImageHas(t *testing.T) {
	c := newController(t, "p")
	for _, tc := range []struct {
		params map[string]string
		caps   []*csi.VolumeCapability
		want   int64 // 0: the answer has no minimum
	}{
		{},
		{caps: mounted(multiWriter)},
		{params: map[string]string{"backing": "image"}, want: volume.Ext4.MinimumBytes()},
		{params: map[string]string{"backing": "image"}, caps: formatted("xfs"), want: volume.XFS.MinimumBytes()},
		{caps: formatted("btrfs"), want: volume.Btrfs.MinimumBytes()},
	} {
		resp, err := c.GetCapacity(t.Context(),
			&csi.GetCapacityRequest{Parameters: tc.params, VolumeCapabilities: tc.caps})
		if got := resp.GetMinimumVolumeSize().GetValue(); got != tc.want || err != nil {
			t.Errorf("%v, %v: the minimum is %d, %v, want %d", tc.params, tc.caps, got, err, tc.want)
		}
	}
}

// CreateVolume grants what GetCapacity offers, and not one byte more. The test leaves some room for
// other users of the disk.
func TestCapacityIsKept(t *testing.T) {
	c := newController(t, "p")
	resp, err := c.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const spare = 1 << 30
	_, err = c.CreateVolume(t.Context(),
		with(t, "more", &csi.CapacityRange{RequiredBytes: resp.GetAvailableCapacity() + spare}))
	wantCode(t, err, codes.ResourceExhausted)
	_, err = c.CreateVolume(t.Context(),
		with(t, "all", &csi.CapacityRange{RequiredBytes: resp.GetAvailableCapacity() - spare}))
	wantCode(t, err, codes.OK)
}

// On a dead disk statfs(2) still returns the last free space. If GetCapacity offered it, the
// scheduler would place one claim after the other there.
func TestDiskThatHasFailedOffersNoRoom(t *testing.T) {
	for _, how := range []string{"shut down", "read-only"} {
		t.Run(how, func(t *testing.T) {
			disk, c := disks.New(t, disks.XFS, 0), &controller{published: published{}}
			c.open(t, pool.Options{Name: "p", Path: disk.Dir})
			c.Server = New(Options{Pools: c.pools, Publications: c.published})
			if room(t, c) == 0 {
				t.Fatal("the disk has no room")
			}
			if how == "read-only" {
				if err := unix.Mount("", disk.Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
					t.Fatal(err)
				}
			} else {
				disk.Shutdown(t)
			}
			if got := room(t, c); got != 0 {
				t.Errorf("%d bytes are offered", got)
			}
			if _, err := c.CreateVolume(t.Context(), with(t, "pvc-1")); err == nil {
				t.Error("a volume was made there")
			}
		})
	}
}

func room(t *testing.T, c *controller) int64 {
	t.Helper()
	resp, err := c.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetAvailableCapacity()
}

func TestNothingUnbuiltIsAdvertised(t *testing.T) {
	c := newController(t, "p")
	resp, err := c.ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range resp.GetCapabilities() {
		got = append(got, c.GetRpc().GetType().String())
	}
	slices.Sort(got)
	want := []string{
		"CLONE_VOLUME",
		"CREATE_DELETE_SNAPSHOT",
		"CREATE_DELETE_VOLUME",
		"GET_CAPACITY",
		"GET_SNAPSHOT",
		"GET_VOLUME",
		"GET_VOLUME_HEALTH",
		"LIST_SNAPSHOTS",
		"LIST_VOLUMES",
		"LIST_VOLUME_HEALTH",
		"SINGLE_NODE_MULTI_WRITER",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the service advertises %q, want %q", got, want)
	}
	_, err = c.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{})
	wantCode(t, err, codes.Unimplemented)
}
