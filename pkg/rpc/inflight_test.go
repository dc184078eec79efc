package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const testPool = "0123456789ab"

func newTestInFlight() *inFlight {
	return newInFlight(newMetrics(prometheus.NewRegistry()).conflicts, OneNode)
}

func TestKeysOf(t *testing.T) {
	hashed, err := volume.ParseName("no file name/")
	if err != nil {
		t.Fatal(err)
	}
	vol := lockKey{volumeSpace, "pvc-1"}
	tests := []struct {
		name string
		req  any
		want lockKeys
	}{
		{"create", &csi.CreateVolumeRequest{Name: "pvc-1"}, lockKeys{}},
		{"delete by ID", &csi.DeleteVolumeRequest{VolumeId: testPool + "-pvc-1"}, lockKeys{vol}},
		{
			"delete by a hashed ID",
			&csi.DeleteVolumeRequest{VolumeId: testPool + "-" + hashed.Dir()},
			lockKeys{{volumeSpace, hashed.Dir()}},
		},
		{
			"stage",
			&csi.NodeStageVolumeRequest{VolumeId: testPool + "-pvc-1", StagingTargetPath: "/s"},
			lockKeys{vol, {pathSpace, "/s"}},
		},
		{
			"unstage",
			&csi.NodeUnstageVolumeRequest{VolumeId: testPool + "-pvc-1", StagingTargetPath: "/s/"},
			lockKeys{vol, {pathSpace, "/s"}},
		},
		{
			"publish",
			&csi.NodePublishVolumeRequest{
				VolumeId:          testPool + "-pvc-1",
				StagingTargetPath: "/s",
				TargetPath:        "/t",
			},
			lockKeys{vol, {pathSpace, "/t"}},
		},
		{
			"unpublish",
			&csi.NodeUnpublishVolumeRequest{VolumeId: testPool + "-pvc-1", TargetPath: "/x/../t"},
			lockKeys{vol, {pathSpace, "/t"}},
		},
		{
			"a handle that somebody wrote",
			&csi.NodeUnpublishVolumeRequest{VolumeId: "no file name/", TargetPath: "/t"},
			lockKeys{{volumeSpace, hashed.Dir()}, {pathSpace, "/t"}},
		},
		{
			"a hostile ID locks its path only",
			&csi.NodeUnpublishVolumeRequest{VolumeId: strings.Repeat("x", 129), TargetPath: "/t"},
			lockKeys{{}, {pathSpace, "/t"}},
		},
		{"node expand", &csi.NodeExpandVolumeRequest{VolumeId: testPool + "-pvc-1"}, lockKeys{vol}},
		{"snapshot", &csi.CreateSnapshotRequest{Name: "pvc-1", SourceVolumeId: testPool + "-v"}, lockKeys{}},
		{"delete a snapshot", &csi.DeleteSnapshotRequest{SnapshotId: testPool + "-s-pvc-1"}, lockKeys{}},
		{"a hostile ID", &csi.DeleteVolumeRequest{VolumeId: "\xff"}, lockKeys{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := keysOf(tt.req, dirKey); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// unlocked has the requests with a volume that change nothing, or that the driver does not serve.
var unlocked = []protoreflect.Name{
	"ValidateVolumeCapabilitiesRequest",
	"ControllerGetVolumeRequest",
	"ControllerGetVolumeHealthRequest",
	"NodeGetVolumeStatsRequest",
	"NodeGetVolumeHealthRequest",
}

func TestEveryRequestWithAVolumeIsLockedOrKnownToRead(t *testing.T) {
	for m := range requests(t) {
		desc := m.ProtoReflect().Descriptor()
		field := desc.Fields().ByName("volume_id")
		if field == nil {
			continue
		}
		m.ProtoReflect().Set(field, protoreflect.ValueOfString(testPool+"-pvc-1"))
		locks := keysOf(m, dirKey) != lockKeys{}
		if reads := slices.Contains(unlocked, desc.Name()); locks == reads {
			t.Errorf("%s: locks %v, listed as reading %v", desc.Name(), locks, reads)
		}
	}
}

func TestSecondCallLearnsWhoHoldsTheVolumeAndSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTestInFlight()
		expand := &csi.NodeExpandVolumeRequest{VolumeId: testPool + "-pvc-1"}
		if err := f.tryLock("NodeExpandVolume", keysOf(expand, dirKey)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		_, err := f.intercept(t.Context(), &csi.DeleteVolumeRequest{VolumeId: testPool + "-pvc-1"},
			&grpc.UnaryServerInfo{FullMethod: csi.Controller_DeleteVolume_FullMethodName}, unreachable(t))
		if !errors.Is(err, volume.ErrBusy) ||
			!strings.Contains(err.Error(), `NodeExpandVolume has held volume "pvc-1" for 5s`) {
			t.Errorf("got %v", err)
		}
		if got := counter(t, f.conflicts, "DeleteVolume"); got != 1 {
			t.Errorf("%v conflicts were counted, want 1", got)
		}
		f.unlock(keysOf(expand, dirKey))
		if len(f.locks) != 0 {
			t.Errorf("still held: %v", f.locks)
		}
	})
}

func TestFailedTryTakesNothing(t *testing.T) {
	f := newTestInFlight()
	path := lockKey{pathSpace, "/t"}
	if err := f.tryLock("NodePublishVolume", lockKeys{{volumeSpace, "a"}, path}); err != nil {
		t.Fatal(err)
	}
	if err := f.tryLock("NodePublishVolume", lockKeys{{volumeSpace, "b"}, path}); err == nil {
		t.Fatal("the path was given twice")
	}
	if err := f.tryLock("DeleteVolume", lockKeys{{volumeSpace, "b"}}); err != nil {
		t.Errorf("the failed call left its volume locked: %v", err)
	}
}

// TestOneCallAtATimeForAVolume lets 32 goroutines race for 4 volumes. No two calls may run for one
// volume, and every lock is released.
func TestOneCallAtATimeForAVolume(t *testing.T) {
	f := newTestInFlight()
	var inside [4]atomic.Int32
	var served, refused atomic.Int32
	info := &grpc.UnaryServerInfo{FullMethod: csi.Node_NodePublishVolume_FullMethodName}
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 200 {
				v := (g + i) % len(inside)
				req := &csi.NodePublishVolumeRequest{
					VolumeId:   fmt.Sprintf("%s-v%d", testPool, v),
					TargetPath: fmt.Sprintf("/t/%d", g),
				}
				_, err := f.intercept(t.Context(), req, info, func(context.Context, any) (any, error) {
					if inside[v].Add(1) != 1 {
						t.Error("two calls are inside one volume")
					}
					time.Sleep(10 * time.Microsecond)
					inside[v].Add(-1)
					served.Add(1)
					return nil, nil
				})
				if err != nil {
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if len(f.locks) != 0 {
		t.Errorf("still held: %v", f.locks)
	}
	if served.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d served, %d refused: the race raced nothing", served.Load(), refused.Load())
	}
}

func unreachable(t *testing.T) grpc.UnaryHandler {
	t.Helper()
	return func(context.Context, any) (any, error) {
		t.Error("the handler was called")
		return nil, nil
	}
}

func counter(t *testing.T, vec *prometheus.CounterVec, method string) float64 {
	t.Helper()
	var m dto.Metric
	if err := vec.WithLabelValues(method).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}
