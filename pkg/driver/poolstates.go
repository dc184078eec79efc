package driver

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// measureInterval is the time between two looks at the pools, each of which costs two system
	// calls, and minMeasureInterval the shortest time between two looks after calls.
	measureInterval    = 3 * time.Second
	minMeasureInterval = 100 * time.Millisecond
	// smallChange is the part of a pool's size by which others may change its room before the
	// controller is told at once; else it is told after smallChangeAge. On a filesystem that others
	// use, the room changes all the time.
	smallChange    = 256
	smallChangeAge = time.Minute
)

var errStopping = status.Error(codes.Unavailable, "the driver is stopping")

// poolStates measures the state of the pools, as the controller gets it.
type poolStates struct {
	pools *poolSet
	// references are the volumes that are in no pool and have adverse conditions; nil: none has.
	references func() []*linkpb.UnhealthyVolume

	calls   signal // that may have changed the pools
	current atomic.Pointer[linkpb.State]
	changed signal // of current

	since time.Time // of current; only run uses it
}

func newPoolStates(pools *poolSet) *poolStates {
	return &poolStates{pools: pools}
}

// run measures again and again until the context ends.
func (s *poolStates) run(ctx context.Context) {
	for called := false; ctx.Err() == nil; {
		calls := s.calls.next()
		s.set(s.measure(), called) //nolint:contextcheck // it waits for statusPatience at most
		pause(ctx, minMeasureInterval, nil)
		called = pause(ctx, measureInterval, calls)
	}
}

// pause waits, and says whether it was woken.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// set replaces the state, if it differs. Small changes wait, unless a call has made them.
func (s *poolStates) set(next *linkpb.State, called bool) {
	now := time.Now()
	current := s.current.Load()
	switch {
	case proto.Equal(current, next):
		return
	case !called && now.Sub(s.since) < smallChangeAge && isSmallChange(current, next):
		return
	}
	s.since = now
	s.current.Store(next)
	s.changed.fire()
}

// isSmallChange says whether only the room of pools has changed, and by little.
func isSmallChange(before, after *linkpb.State) bool {
	if len(before.GetPools()) != len(after.GetPools()) ||
		!slices.EqualFunc(before.GetReferences(), after.GetReferences(), equalUnhealthy) {
		return false
	}
	for n, b := range before.GetPools() {
		a, ok := proto.Clone(after.GetPools()[n]).(*linkpb.Pool)
		more := a.GetAvailableBytes() - b.GetAvailableBytes()
		a.AvailableBytes = b.GetAvailableBytes()
		if !ok || max(more, -more) > b.GetSizeBytes()/smallChange || !proto.Equal(a, b) {
			return false
		}
	}
	return true
}

func equalUnhealthy(a, b *linkpb.UnhealthyVolume) bool { return proto.Equal(a, b) }

// measure asks all pools at a time. One whose disk hangs does not delay the others for long.
func (s *poolStates) measure() *linkpb.State {
	state := &linkpb.State{}
	if s.references != nil {
		state.References = s.references()
	}
	for _, p := range s.pools.statuses() {
		described := s.describe(p.poolSlot)
		describeHealth(described, p)
		state.Pools = append(state.Pools, described)
		if p.err != nil {
			described.NotReady = string(volume.ReasonOf(p.err))
			continue
		}
		described.SizeBytes = p.status.SizeBytes
		described.AvailableBytes = p.status.AvailableBytes
		described.Volumes = int64(p.status.Volumes)
		described.Snapshots = int64(p.status.Snapshots)
	}
	return state
}

// describe says what is known of a pool without asking its disk.
func (s *poolStates) describe(slot poolSlot) *linkpb.Pool {
	p := &linkpb.Pool{
		Name:           slot.config.Name,
		IsDefault:      slot.config.Name == s.pools.defaultPool,
		Uuid:           slot.uuid,
		Optional:       slot.config.Optional,
		AllowMultiNode: slot.config.AllowMultiNode,
	}
	if slot.pool != nil {
		filesystem := slot.pool.Filesystem()
		p.LimitsInodes, p.EnforcesSizes = filesystem.LimitsInodes, filesystem.EnforcesSizes
	}
	return p
}

// afterChange is a grpc.UnaryServerInterceptor. It has the pools measured after calls that change
// their room.
func (s *poolStates) afterChange(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	resp, err := handler(ctx, req)
	switch req.(type) {
	case *csi.CreateVolumeRequest, *csi.DeleteVolumeRequest, *csi.ControllerExpandVolumeRequest,
		*csi.CreateSnapshotRequest, *csi.DeleteSnapshotRequest,
		*csi.CreateVolumeGroupSnapshotRequest, *csi.DeleteVolumeGroupSnapshotRequest:
		s.calls.fire()
	}
	return resp, err
}
