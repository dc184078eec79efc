package router

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
)

// minPush is the least time between two states of a node that are taken: a node that pushes without
// end waits.
const minPush = 50 * time.Millisecond

// watchRetry is the time after which a stream that a node has ended is asked for again.
const watchRetry = 5 * time.Second

// Linked implements link.Fleet. It follows the state of the node's pools until the link ends.
func (r *Router) Linked(l *link.Link) {
	n := r.fleet.link(l)
	r.watches.Go(func() { r.watch(n, l) })
}

// Unlinked implements link.Fleet.
func (r *Router) Unlinked(l *link.Link, why error) { r.fleet.unlink(l, why) }

// watch takes the states that a node pushes, as long as the link is the node's newest.
func (r *Router) watch(n *node, l *link.Link) {
	for r.watching.Err() == nil && r.fleet.isNewest(n, l) {
		err := r.follow(n, l)
		if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled {
			r.logger.Error(err, "A node does not push the state of its pools; trying again",
				"node", n.name, "after", watchRetry)
		}
		r.pause(watchRetry)
	}
}

// pause waits until the router is closed at most.
func (r *Router) pause(d time.Duration) {
	select {
	case <-r.watching.Done():
	case <-time.After(d):
	}
}

// follow returns when the stream has ended, with the reason.
func (r *Router) follow(n *node, l *link.Link) error {
	ctx, stop := context.WithCancel(r.watching)
	defer stop()
	stream, err := linkpb.NewNodeClient(l.Conn).Watch(ctx, &linkpb.WatchRequest{})
	if err != nil {
		return err
	}
	for {
		state, err := stream.Recv()
		if err != nil {
			return err
		}
		r.fleet.update(n, l, state)
		r.pause(minPush)
	}
}
