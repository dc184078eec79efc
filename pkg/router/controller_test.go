package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestEachCallGoesToTheNodeOfTheVolume(t *testing.T) {
	c := newCluster(t, Options{})
	a, b := c.addNode("node-a", "p"), c.addNode("node-b", "p")
	for _, n := range []*testNode{a, b} {
		v := c.create(createRequest("v", n.name))
		if nodeOf(v) != n.name || !strings.HasPrefix(v.GetVolumeId(), string(n.pools[0].ID())) {
			t.Errorf("the volume for %s is %v", n.name, v)
		}
		n.useAll(t, v.GetVolumeId())
	}
	for _, n := range []*testNode{a, b} {
		want := []string{
			"CreateVolume", "ControllerGetVolume", "ValidateVolumeCapabilities", "ControllerExpandVolume",
			"ControllerModifyVolume", "CreateSnapshot", "GetSnapshot", "ListSnapshots", "ListSnapshots",
			"DeleteSnapshot", "DeleteVolume",
		}
		if got := n.called(); !slices.Equal(got, want) {
			t.Errorf("%s has got the calls %q, want %q", n.name, got, want)
		}
	}
}

// useAll makes each call for a volume, and deletes it.
func (n *testNode) useAll(t *testing.T, id string) {
	t.Helper()
	ctx, client := t.Context(), n.c.client
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := client.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id})
	must(err)
	if got.GetVolume().GetVolumeId() != id {
		t.Errorf("the volume is %v", got)
	}
	valid, err := client.ValidateVolumeCapabilities(ctx,
		&csi.ValidateVolumeCapabilitiesRequest{VolumeId: id, VolumeCapabilities: mounted()})
	must(err)
	if valid.GetConfirmed() == nil {
		t.Errorf("not confirmed: %v", valid)
	}
	grown, err := client.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * mib},
	})
	must(err)
	if grown.GetCapacityBytes() != 2*mib {
		t.Errorf("it has grown to %v", grown)
	}
	_, err = client.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
		VolumeId: id, MutableParameters: map[string]string{"trashRetention": "0s"},
	})
	must(err)
	snapshot, err := client.CreateSnapshot(ctx,
		&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: id})
	must(err)
	snapshotID := snapshot.GetSnapshot().GetSnapshotId()
	_, err = client.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: snapshotID})
	must(err)
	for _, req := range []*csi.ListSnapshotsRequest{{SnapshotId: snapshotID}, {SourceVolumeId: id}} {
		list, err := client.ListSnapshots(ctx, req)
		must(err)
		if len(list.GetEntries()) != 1 {
			t.Errorf("the list is %v", list)
		}
	}
	_, err = client.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshotID})
	must(err)
	_, err = client.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	must(err)
}

// called are the methods of the calls since the last time.
func (n *testNode) called() (methods []string) {
	for {
		select {
		case m := <-n.calls:
			methods = append(methods, m)
		default:
			return methods
		}
	}
}

// An ID of no volume is answered as by a node, also without nodes.
func TestIDsThatTheDriverCannotHaveGivenOutNeedNoNode(t *testing.T) {
	c := newCluster(t, Options{})
	inline := "csi-" + strings.Repeat("0", 64)
	for id, want := range map[string][3]codes.Code{ // delete, get, delete snapshot
		"none":                    {codes.OK, codes.NotFound, codes.OK},
		"0123456789ab-../../etc":  {codes.OK, codes.NotFound, codes.OK},
		"host-0123456789ab-v":     {codes.OK, codes.Unavailable, codes.OK},
		inline:                    {codes.NotFound, codes.NotFound, codes.OK},
		"":                        {codes.InvalidArgument, codes.InvalidArgument, codes.InvalidArgument},
		"0123456789ab-v":          {codes.Unavailable, codes.Unavailable, codes.OK},
		"0123456789ab-s-v":        {codes.OK, codes.NotFound, codes.Unavailable},
		strings.Repeat("x", 1000): {codes.InvalidArgument, codes.InvalidArgument, codes.InvalidArgument},
	} {
		_, err := c.client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
		wantCode(t, err, want[0])
		_, err = c.client.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
		wantCode(t, err, want[1])
		_, err = c.client.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id})
		wantCode(t, err, want[2])
	}
}

func TestANodeThatIsNotLinkedIsNamedWithWhatToLookAt(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	v := c.create(createRequest("v", "node-a"))
	n.disconnect("its pod is gone")
	words := []string{
		"node-a", "its pod is gone",
		"kubectl -n csi-hostpath get pods -o wide --field-selector spec.nodeName=node-a",
		time.Now().UTC().Format("2006-01-02T"),
	}
	_, err := c.client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()})
	wantCode(t, err, codes.Unavailable, words...)
	_, err = c.client.CreateVolume(t.Context(), createRequest("w", "node-a"))
	wantCode(t, err, codes.Unavailable, words...)
	_, err = c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	wantCode(t, err, codes.Unavailable, words...)
	_, err = c.client.CreateVolume(t.Context(), createRequest("w", "node-never"))
	wantCode(t, err, codes.Unavailable, "node-never", "since it started", "spec.nodeName=node-never")
	_, err = c.client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "0123456789ab-v"})
	wantCode(t, err, codes.Unavailable, "pool 0123456789ab", "Not linked: node-a")

	n.connect()
	if _, err := c.client.DeleteVolume(
		t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()},
	); err != nil {
		t.Error(err)
	}
}

func TestWhatTheNodeAnswersGoesThroughUnchanged(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	for _, code := range []codes.Code{
		codes.Aborted, codes.ResourceExhausted, codes.Internal, codes.Unavailable, codes.AlreadyExists,
	} {
		n.doBefore(func(context.Context, string) error { return status.Error(code, "so says the node") })
		_, err := c.client.CreateVolume(t.Context(), createRequest("v", "node-a"))
		if s := status.Convert(err); s.Code() != code || s.Message() != "so says the node" {
			t.Errorf("the node answers %s, the router %v", code, err)
		}
	}
}

func TestAMessageWithoutEndIsCut(t *testing.T) {
	c := newCluster(t, Options{})
	c.addNode("node-a", "p").doBefore(func(context.Context, string) error {
		return status.Error(codes.Aborted, strings.Repeat("é", maxMessage))
	})
	_, err := c.client.CreateVolume(t.Context(), createRequest("v", "node-a"))
	if s := status.Convert(err); s.Code() != codes.Aborted || len(s.Message()) > maxMessage+10 {
		t.Errorf("the answer is %s with %d bytes", s.Code(), len(s.Message()))
	}
}

func TestDeadlineAndCancellationReachTheNode(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	arrived, ended := make(chan time.Duration, 1), make(chan error, 1)
	n.doBefore(func(ctx context.Context, _ string) error {
		end, _ := ctx.Deadline()
		arrived <- time.Until(end)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	go func() {
		if left := <-arrived; left > time.Hour || left < time.Minute {
			t.Errorf("the node has %s", left)
		}
		cancel()
	}()
	_, err := c.client.CreateVolume(ctx, createRequest("v", "node-a"))
	wantCode(t, err, codes.Canceled)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the node's call ended with %v", err)
	}
}

func TestOneRequestIDIsInBothLogs(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	c.create(createRequest("v", "node-a"))
	c.wait("both lines", func() bool {
		_, rest, ok := strings.Cut(c.log.String(), `method="CreateVolume" requestID="`)
		id, _, _ := strings.Cut(rest, `"`)
		return ok && strings.Contains(n.log.String(), fmt.Sprintf("requestID=%q", id))
	})
}

// A slow node has at most so many calls, and the others none the less.
func TestASlowNodeDoesNotSlowOthers(t *testing.T) {
	c := newCluster(t, Options{})
	slow, quick := c.addNode("node-slow", "p"), c.addNode("node-quick", "p")
	release := make(chan struct{})
	slow.doBefore(func(context.Context, string) error { <-release; return nil })
	const most = maxUnderWay / 5
	results := make(chan error, most)
	for i := range most {
		go func() {
			_, err := c.client.CreateVolume(t.Context(), createRequest(fmt.Sprint("v-", i), slow.name))
			results <- err
		}()
	}
	c.wait("all calls", func() bool { return len(slow.calls) == most })
	_, err := c.client.CreateVolume(t.Context(), createRequest("one-too-many", slow.name))
	wantCode(t, err, codes.Unavailable, "node-slow", fmt.Sprint(most, " calls"))
	for i := range 10 {
		c.create(createRequest(fmt.Sprint("v-", i), quick.name))
	}
	close(release)
	for range most {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	c.create(createRequest("one-too-many", slow.name))
}

// The node is cut off in the middle: the repeated call finds the volume there.
func TestACallThatTheLinkCutsOffIsRepeatedOnTheSameNode(t *testing.T) {
	c := newCluster(t, Options{})
	nodes := []*testNode{c.addNode("node-a", "p"), c.addNode("node-b", "p")}
	for _, n := range nodes {
		n.doBefore(func(ctx context.Context, method string) error {
			if method == "CreateVolume" {
				n.doBefore(nil)
				if _, err := n.CreateVolume(ctx, createRequest("v")); err != nil {
					t.Error(err)
				}
				return status.Error(codes.Unavailable, "the link has ended")
			}
			return nil
		})
	}
	_, err := c.client.CreateVolume(t.Context(), createRequest("v"))
	wantCode(t, err, codes.Unavailable)
	first := nodes[0]
	if len(nodes[1].called()) > 0 {
		first = nodes[1]
	}
	// Now the other node has more room.
	for _, n := range nodes {
		n.doBefore(nil)
		state := n.realState()
		state.Pools[0].AvailableBytes = 1 << 40
		if n == first {
			state.Pools[0].AvailableBytes = 0
		}
		n.push(state)
	}
	if v := c.create(createRequest("v")); nodeOf(v) != first.name {
		t.Errorf("the first call went to %s, the second made %v", first.name, v)
	}
	list, err := c.client.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil || len(list.GetEntries()) != 1 {
		t.Errorf("there are %v, %v", list, err)
	}
}

// A request may name each node of a large cluster twice. The node gets its own part only.
func TestRequestOf5000TopologiesPasses(t *testing.T) {
	c := newCluster(t, Options{})
	c.addNode("node-4999", "p")
	var names []string
	for i := range 5000 {
		names = append(names, fmt.Sprintf("node-%d", i))
	}
	req := createRequest("v", names...)
	if size := proto.Size(req); size < 400_000 {
		t.Errorf("the request has only %d bytes", size)
	}
	if v := c.create(req); nodeOf(v) != "node-4999" {
		t.Errorf("the volume is %v", v)
	}
}

func TestTheRouterAdvertisesExpansion(t *testing.T) {
	c := newCluster(t, Options{})
	resp, err := c.client.ControllerGetCapabilities(t.Context(),
		&csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(resp.GetCapabilities(), func(a *csi.ControllerServiceCapability) bool {
		return a.GetRpc().GetType() == csi.ControllerServiceCapability_RPC_EXPAND_VOLUME
	}) {
		t.Errorf("the capabilities are %v", resp)
	}
	info, err := c.identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || info.GetName() != driverName {
		t.Errorf("the plugin is %v, %v", info, err)
	}
	probe, err := c.identity.Probe(t.Context(), &csi.ProbeRequest{})
	if err != nil || !probe.GetReady().GetValue() {
		t.Errorf("the probe is %v, %v", probe, err)
	}
}

// A class with a path makes nothing. Its volume is on one node all the same, also when it is asked
// for again.
func TestAReferenceIsOnOneNode(t *testing.T) {
	c := newCluster(t, Options{})
	for _, name := range []string{"node-a", "node-b", "node-c"} {
		c.addNode(name)
	}
	req := createRequest("v")
	req.Parameters = map[string]string{
		volume.ParamPath: "/srv/data", volume.ParamType: string(volume.Directory),
	}
	first := c.create(req)
	for range 3 {
		if again := c.create(req); !proto.Equal(first, again) {
			t.Errorf("the volume was %v, and is %v", first, again)
		}
	}
	if _, err := c.client.ControllerGetVolume(t.Context(),
		&csi.ControllerGetVolumeRequest{VolumeId: first.GetVolumeId()}); err != nil {
		t.Error(err)
	}
	_, err := c.client.CreateSnapshot(t.Context(),
		&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: first.GetVolumeId()})
	wantCode(t, err, codes.InvalidArgument, "path of the host")
}

// Whichever node is asked says the same of a class with content of git, and nothing is made.
func TestClassWithContentOfGitIsMadeByAnyNodeForAll(t *testing.T) {
	c := newCluster(t, Options{})
	c.addNode("node-a", "p")
	c.addNode("node-b", "p")
	request := func(nodes ...string) *csi.CreateVolumeRequest {
		req := createRequest("pvc-1", nodes...)
		req.Parameters = map[string]string{
			volume.ParamSource: "git", volume.ParamURL: "https://git.example.com/site",
			volume.ParamPVCNamespace: "web", volume.ParamPVCName: "site",
		}
		return req
	}
	v := c.create(request())
	want := map[string]string{
		"source": "git", "url": "https://git.example.com/site", "size": "1048576",
	}
	if len(v.GetAccessibleTopology()) != 0 || !maps.Equal(v.GetVolumeContext(), want) {
		t.Errorf("%v: want no topology, and %v", v, want)
	}
	for _, node := range []string{"node-a", "node-b"} {
		if again := c.create(request(node)); !proto.Equal(v, again) {
			t.Errorf("the volume was %v, and is %v", v, again)
		}
	}

	other := request()
	other.Parameters[volume.ParamPVCNamespace] = "bank"
	_, err := c.client.CreateVolume(t.Context(), other)
	wantCode(t, err, codes.PermissionDenied, "is for the namespaces [web]")
	mistake := request()
	mistake.Parameters["branch"] = "main"
	_, err = c.client.CreateVolume(t.Context(), mistake)
	wantCode(t, err, codes.InvalidArgument, `unknown parameter "branch"`, "url")
	_, err = c.client.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: v.GetVolumeId(), CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * mib},
	})
	wantCode(t, err, codes.InvalidArgument, "content of git")
	validated, err := c.client.ValidateVolumeCapabilities(t.Context(),
		&csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: v.GetVolumeId(), VolumeContext: v.GetVolumeContext(), VolumeCapabilities: mounted(),
		})
	if err != nil || validated.GetConfirmed() == nil {
		t.Errorf("%v, %v: want it confirmed", validated, err)
	}
	if err := c.deleteVolume(v); err != nil {
		t.Error(err)
	}
}

// Pools of two nodes have volumes of the same name.
func TestVolumesOfOneNameOnTwoNodesDoNotExcludeEachOther(t *testing.T) {
	c := newCluster(t, Options{})
	a, b := c.addNode("node-a", "p"), c.addNode("node-b", "p")
	onA, onB := c.create(createRequest("v", "node-a")), c.create(createRequest("v", "node-b"))
	arrived, release := make(chan struct{}), make(chan struct{})
	a.doBefore(func(context.Context, string) error { close(arrived); <-release; return nil })
	deleted := make(chan error)
	go func() { deleted <- c.deleteVolume(onA) }()
	<-arrived
	wantCode(t, c.deleteVolume(onA), codes.Aborted)
	if err := c.deleteVolume(onB); err != nil {
		t.Errorf("on %s: %v", b.name, err)
	}
	close(release)
	if err := <-deleted; err != nil {
		t.Error(err)
	}
}
