package lifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const reasonNotEnforced = "SizeNotEnforced"

const (
	// tellSizeWithin is how old a volume may be when its owner is told. The API server keeps an event
	// for an hour by default, and refuses another one of its name. So nobody is told twice.
	tellSizeWithin = 30 * time.Minute
	// sizeRetry is when a volume is looked at again whose pool cannot be seen, or whose event could
	// not be sent.
	sizeRetry = 30 * time.Second
	// sizesPerSecond and sizesAtOnce bound the events, which may come later: in a burst of claims each
	// event would take the API server's time from a claim.
	sizesPerSecond = 5
	sizesAtOnce    = 10
)

// sizes tells the owners of claims, once, that nothing keeps their volumes within their sizes. It
// writes nothing else: neither for a volume whose size is enforced, nor to the volumes.
type sizes struct {
	client    kubernetes.Interface
	cluster   *cluster
	nodes     Nodes
	component string
	queue     workqueue.TypedDelayingInterface[string]
	pace      *rate.Limiter

	mu   sync.Mutex
	sent map[types.UID]time.Time // when volumes were made whose owners have been told
}

func newSizes(o Options, c *cluster) (*sizes, error) {
	s := &sizes{
		client: o.Client, cluster: c, nodes: o.Nodes, component: o.Component,
		queue: workqueue.NewTypedDelayingQueue[string](),
		pace:  rate.NewLimiter(sizesPerSecond, sizesAtOnce),
		sent:  map[types.UID]time.Time{},
	}
	return s, on(c.volumes, s.changed)
}

// changed is called for each change of a volume: it looks at nothing but the volume.
func (s *sizes) changed(name string) {
	v, ok := get[*persistentVolume](s.cluster.volumes, name)
	if ok && s.isDue(v) {
		s.queue.Add(name)
	}
}

// isDue says whether the volume is so new that nobody has been told yet.
func (s *sizes) isDue(v *persistentVolume) bool {
	if !v.ours || v.released || time.Since(v.CreationTimestamp.Time) > tellSizeWithin {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, sent := s.sent[v.UID]
	return !sent
}

// start begins to work, until the queue is shut down. The informers must have synced.
func (s *sizes) start(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() {
		for s.next(ctx) {
		}
	})
}

// next looks at the next volume. False: the queue has ended.
func (s *sizes) next(ctx context.Context) bool {
	name, ended := s.queue.Get()
	if ended {
		return false
	}
	defer s.queue.Done(name)
	v, ok := get[*persistentVolume](s.cluster.volumes, name)
	if !ok || !s.isDue(v) {
		return true
	}
	known, err := s.tell(ctx, v)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Nobody is told that a size is not enforced", "volume", name)
	}
	if err != nil || !known {
		s.queue.AddAfter(name, sizeRetry)
		return true
	}
	s.note(v)
	return true
}

// tell sends the event if the volume can grow beyond its size. known is false while that cannot be
// said.
func (s *sizes) tell(ctx context.Context, v *persistentVolume) (known bool, err error) {
	c, ok := get[*claim](s.cluster.claims, v.claim)
	if !ok || c.UID != v.claimUID || c.volume != v.Name {
		return false, nil // not bound yet
	}
	id, depends := s.poolOf(v, c)
	if !depends {
		return true, nil
	}
	p, usable := s.nodes.Pool(id)
	if !usable || p.EnforcesSizes {
		return usable, nil
	}
	if err := s.pace.Wait(ctx); err != nil {
		return false, err
	}
	return true, kube.SendOnce(ctx, s.client, kube.OnceEvent{
		Name: string(v.UID) + ".size-not-enforced", Component: s.component,
		About: reference(claimKind, c), Type: corev1.EventTypeWarning, Reason: reasonNotEnforced,
		Message: fmt.Sprintf("Nothing keeps this volume within its size, because pool %s of node %s "+
			"enforces none: the volume can fill the disk. For sizes that hold, put the pool on a "+
			"filesystem with quotas, or use a class with \"backing: enforced\".", p.Name, p.Node),
	})
}

// poolOf is the pool of a volume whose size holds only if the pool enforces sizes. Others are paths
// of the host, which have no size, images, and volumes of a class that was deleted or is not known.
func (s *sizes) poolOf(v *persistentVolume, c *claim) (id volume.PoolID, depends bool) {
	handle, err := volume.ParseID(v.handle)
	kind, ok := get[*class](s.cluster.classes, c.class)
	if err != nil || !ok || kind.parameters == nil {
		return "", false
	}
	spec, err := kind.parameters.SpecFor(v.access)
	return handle.Pool(), err == nil && !spec.IsImage() && !spec.EnforcedSize
}

// note keeps that the owner has been told, or need not be, and forgets volumes that are not new.
func (s *sizes) note(v *persistentVolume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, made := range s.sent {
		if time.Since(made) > tellSizeWithin {
			delete(s.sent, uid)
		}
	}
	s.sent[v.UID] = v.CreationTimestamp.Time
}
