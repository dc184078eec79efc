package main

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
)

// state tells controllers about a node's pool.
type state struct {
	linkpb.UnimplementedNodeServer

	pool     *pool.Pool   // nil: there is none
	uuid     string       // of the pool that there is not
	watching atomic.Int64 // replicas of the controller
	since    atomic.Int64 // when the last of them began, in nanoseconds since 1970

	mu   sync.Mutex
	next chan struct{} // closed when the state has changed
}

var _ linkpb.NodeServer = (*state)(nil)

// madeUp is how many volumes a node without a pool says it has.
const madeUp = 10

func newState(p *pool.Pool) *state {
	return &state{pool: p, uuid: string(uuid.NewUUID()), next: make(chan struct{})}
}

// changed has the state sent again.
func (s *state) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.next)
	s.next = make(chan struct{})
}

// change is closed at the next change.
func (s *state) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// Watch implements linkpb.NodeServer.
func (s *state) Watch(
	_ *linkpb.WatchRequest, stream grpc.ServerStreamingServer[linkpb.State],
) error {
	changed := s.change()
	if err := s.send(stream); err != nil {
		return err
	}
	s.since.Store(time.Now().UnixNano())
	s.watching.Add(1)
	defer s.watching.Add(-1)
	for {
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		changed = s.change()
		if err := s.send(stream); err != nil {
			return err
		}
	}
}

func (s *state) send(stream grpc.ServerStreamingServer[linkpb.State]) error {
	now, err := s.now()
	if err != nil {
		return err
	}
	return stream.Send(now)
}

// now is the state of the pool. Without a pool it is one that nothing can be made in.
func (s *state) now() (*linkpb.State, error) {
	tells := &linkpb.Pool{Name: poolName, IsDefault: true, Uuid: s.uuid, Volumes: madeUp}
	if s.pool != nil {
		status, err := s.pool.Status()
		if err != nil {
			return nil, err
		}
		tells.Uuid = string(s.pool.ID())
		tells.SizeBytes, tells.AvailableBytes = status.SizeBytes, status.AvailableBytes
		tells.Volumes, tells.Snapshots = int64(status.Volumes), int64(status.Snapshots)
	}
	return &linkpb.State{Pools: []*linkpb.Pool{tells}}, nil
}
