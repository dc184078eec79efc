package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
)

const (
	placers = 8
	// A source that has no node yet is looked for again after this time, doubled each time.
	firstRetry, lastRetry = 250 * time.Millisecond, 30 * time.Second
	// goneRetry is when a claim is looked at again whose source's node does not exist.
	goneRetry = time.Minute
	// A claim that lost its node again gets it back after this time, doubled each time. A node that
	// has no room is asked that seldom.
	firstPause, lastPause = time.Second, 2 * time.Minute
	// refusals is how often a claim loses its node before its owner is told.
	refusals = 2
)

// Reasons of events.
const (
	reasonNodeGone = "SourceNodeGone"
	reasonRefused  = "SourceNodeRefused"
)

// placer gives the claims that wait for their first consumer, and that have a source, the node of
// their source. The scheduler knows nothing of sources. It skips every node but the selected one
// (pkg/scheduler/framework/plugins/volumebinding, FindPodVolumes), and external-provisioner makes
// the volume there, so the pod follows.
//
// If the scheduler was faster and has chosen another node, the placer replaces its choice. No
// volume can have been made there. The scheduler sees the change, gives the pod up on that node
// (checkBindings), and schedules it again.
//
// external-provisioner takes the node off a claim when its node has no room (RESOURCE_EXHAUSTED).
// The placer sets it again: at once if the scheduler has chosen another node, because the scheduler
// pauses between its tries, and otherwise after a pause of its own.
type placer struct {
	client   kubernetes.Interface
	cluster  *cluster
	finder   *finder
	recorder record.EventRecorder
	metrics  *Metrics
	queue    workqueue.TypedRateLimitingInterface[string]

	mu     sync.Mutex
	placed map[string]placement // of pending claims only, by "namespace/name"
}

// placement is what the placer has done for a claim.
type placement struct {
	claim types.UID
	times int
	last  time.Time
}

func newPlacer(o Options, c *cluster, m *Metrics) (*placer, error) {
	p := &placer{
		client:   o.Client,
		cluster:  c,
		finder:   &finder{cluster: c, dynamic: o.Dynamic, driverName: o.DriverName, nodes: o.Nodes},
		recorder: o.Recorder,
		metrics:  m,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)),
		placed: map[string]placement{},
	}
	return p, errors.Join(on(c.claims, p.queue.Add), on(c.classes, p.addClaimsOf))
}

// addClaimsOf looks at the claims of a class that is new: they may be older.
func (p *placer) addClaimsOf(className string) {
	for _, o := range p.cluster.claims.GetStore().List() {
		if c, ok := o.(*claim); ok && c.class == className && p.isPending(c) {
			p.queue.Add(c.key())
		}
	}
}

// start begins to work, until the queue is shut down. The informers must have synced.
func (p *placer) start(ctx context.Context, wg *sync.WaitGroup) {
	for range placers {
		wg.Go(func() {
			for p.next(ctx) {
			}
		})
	}
}

// next places the next claim. False: the queue has ended.
func (p *placer) next(ctx context.Context) bool {
	key, ended := p.queue.Get()
	if ended {
		return false
	}
	defer p.queue.Done(key)
	again, err := p.place(ctx, key)
	switch {
	case err != nil:
		klog.FromContext(ctx).V(4).Info("A claim is not placed yet", "claim", key, "reason", err)
		p.queue.AddRateLimited(key)
	case again > 0:
		p.queue.Forget(key)
		p.queue.AddAfter(key, again)
	default:
		p.queue.Forget(key)
	}
	return true
}

// place looks at a claim once. It returns after what time to look again; 0: when the claim changes.
// After an error the caller looks again soon.
func (p *placer) place(ctx context.Context, key string) (again time.Duration, err error) {
	c, ok := get[*claim](p.cluster.claims, key)
	if !ok || !p.isPending(c) {
		p.forget(key)
		return 0, nil
	}
	target, err := p.finder.node(ctx, c.Namespace, c.source)
	switch {
	case errors.Is(err, errForeign): // external-provisioner says what is wrong
		return 0, nil
	case err != nil:
		return 0, err
	case target == c.selected:
		return 0, nil
	}
	if _, ok := get[*node](p.cluster.nodes, target); !ok {
		p.recorder.Eventf(reference(claimKind, c), corev1.EventTypeWarning, reasonNodeGone,
			"%s is on node %s, which does not exist any more. Bring that node back, or delete this claim "+
				"and make it from another source.", c.source, target)
		return goneRetry, nil
	}
	if wait := p.pause(c); wait > 0 {
		return wait, nil
	}
	return 0, p.selectNode(ctx, c, target)
}

// isPending says whether the claim is one of those that the placer is for.
func (p *placer) isPending(c *claim) bool {
	if c.deleting || c.volume != "" || c.source == (source{}) {
		return false
	}
	class, ok := get[*class](p.cluster.classes, c.class)
	return ok && class.ours && class.waits
}

// pause is how long the claim's next placement has to wait.
func (p *placer) pause(c *claim) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.placed[c.key()]
	if done.claim != c.UID {
		return 0
	}
	pause := firstPause
	if c.selected == "" {
		pause = min(firstPause<<min(done.times-1, 16), lastPause)
	}
	return time.Until(done.last.Add(pause))
}

// selectNode writes the node into the claim, unless the claim has changed meanwhile. Errors: those
// of the API server.
func (p *placer) selectNode(ctx context.Context, c *claim, target string) error {
	patch, err := kube.SelectNode(c, target)
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	_, err = p.client.CoreV1().PersistentVolumeClaims(c.Namespace).Patch(ctx, c.Name,
		types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("select a node: %w", err)
	}
	times := p.note(c)
	p.metrics.placements.Inc()
	klog.FromContext(ctx).V(2).Info("A claim is placed where its source is", "claim", c.key(),
		"source", c.source.String(), "node", target, "instead", c.selected, "times", times)
	if times > refusals {
		p.recorder.Eventf(reference(claimKind, c), corev1.EventTypeWarning, reasonRefused,
			"%s is on node %s, so the volume can be created only there, and that has failed again and "+
				"again: the events %s say why. Make room on node %s, or delete the claim.",
			c.source, target, provisioningFailed, target)
	}
	return nil
}

// note counts a placement.
func (p *placer) note(c *claim) (times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.placed[c.key()]
	if done.claim != c.UID { // the first, or an older claim of the same name
		done = placement{claim: c.UID}
	}
	done.times, done.last = done.times+1, time.Now()
	p.placed[c.key()] = done
	return done.times
}

func (p *placer) forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.placed, key)
}
