package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/job"
)

// waitBeforeEvent is how long a pod must have found no node before anybody is told: most pods that
// are started together with their claims find one at the second try.
const waitBeforeEvent = 10 * time.Second

// Reasons of events.
const (
	reasonPodCannotFollow = "PodCannotFollowSource"
	reasonClaimFailed     = "ClaimNotProvisioned"
	reasonKeptForClone    = "KeptForClone"
	reasonNodeNotReady    = "DeletionWaitsForNode"
	reasonBeingCopied     = "VolumeBeingCopied"
)

// progressInterval is the least time between two events that say how far the copy for a claim is.
// external-provisioner asks about as often: its calls last 30 s (the chart's provisioner.timeout),
// and end a little earlier (pkg/job).
const progressInterval = 25 * time.Second

// waiting says why a pod waits for a claim of this driver. The scheduler's own events name neither
// the source of a claim nor why external-provisioner could not make its volume.
type waiting struct {
	cluster  *cluster
	finder   *finder
	recorder record.EventRecorder
	queue    workqueue.TypedDelayingInterface[changed]
	delay    time.Duration

	mu   sync.Mutex
	told map[string]map[string]string // by pod and what the event is about: the event's text
	// copying is when an event has said how far the copy for a claim is, by the claim's key. It has
	// only what is younger than progressInterval.
	copying map[string]time.Time
}

// changed is what is to be looked at, one of these: "namespace/name" of a pod, an event, a claim
// that is deleted or one that is to grow, or the name of a volume.
type changed struct{ pod, failure, claim, growth, volume string }

func newWaiting(o Options, c *cluster) (*waiting, error) {
	w := &waiting{
		cluster:  c,
		finder:   &finder{cluster: c, dynamic: o.Dynamic, driverName: o.DriverName, nodes: o.Nodes},
		recorder: o.Recorder,
		queue:    workqueue.NewTypedDelayingQueue[changed](),
		delay:    waitBeforeEvent,
		told:     map[string]map[string]string{},
		copying:  map[string]time.Time{},
	}
	return w, errors.Join(
		on(c.pods, func(key string) { w.queue.AddAfter(changed{pod: key}, w.delay) }),
		on(c.failures, func(key string) { w.queue.Add(changed{failure: key}) }),
		on(c.claims, w.claimChanged),
		on(c.volumes, w.volumeChanged),
	)
}

// start begins to work, until the queue is shut down. The informers must have synced.
func (w *waiting) start(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() {
		for w.next(ctx) {
		}
	})
}

// next looks at what has changed next. False: the queue has ended.
func (w *waiting) next(ctx context.Context) bool {
	c, ended := w.queue.Get()
	if ended {
		return false
	}
	defer w.queue.Done(c)
	switch {
	case c.pod != "":
		w.tellClaims(ctx, c.pod)
	case c.failure != "":
		w.tellPods(c.failure)
	case c.claim != "":
		w.tellSource(c.claim)
	case c.growth != "":
		w.tellGrowth(c.growth)
	default:
		w.tellVolume(c.volume)
	}
	return true
}

// tellClaims says to the owner of a claim why the pod cannot run where the claim's source is.
func (w *waiting) tellClaims(ctx context.Context, key string) {
	p, ok := get[*pod](w.cluster.pods, key)
	if !ok {
		w.forget(key)
		return
	}
	if p.unschedulable == "" {
		return
	}
	for _, claimKey := range p.claims {
		c, ok := get[*claim](w.cluster.claims, claimKey)
		if !ok || c.source == (source{}) || !w.isOurs(c) {
			continue
		}
		on, err := w.nodeOf(ctx, c)
		if err != nil {
			klog.FromContext(ctx).V(4).Info("The node of a claim's source is not known", "claim",
				claimKey, "reason", err)
			continue
		}
		text := fmt.Sprintf("%s is on node %s, and so is a volume that is made from it; pod %s cannot "+
			"run there: %s. Let the pod run on node %s, or make room there for the pod.", c.source, on,
			p.Name, w.why(ctx, p, on), on)
		if w.isNew(key, claimKey, text) {
			w.recorder.Event(reference(claimKind, c), corev1.EventTypeWarning, reasonPodCannotFollow, text)
		}
	}
}

func (w *waiting) isOurs(c *claim) bool {
	class, ok := get[*class](w.cluster.classes, c.class)
	return ok && class.ours
}

// nodeOf is the node of the claim's volume or, without one, of its source.
func (w *waiting) nodeOf(ctx context.Context, c *claim) (string, error) {
	if c.volume != "" {
		return w.finder.ofClaim(c.Namespace, c.Name)
	}
	return w.finder.node(ctx, c.Namespace, c.source)
}

// why names what can be known, and then quotes the scheduler, which knows the rest: room, affinity,
// ports, the other volumes of the pod.
func (w *waiting) why(ctx context.Context, p *pod, nodeName string) string {
	reasons := []string{"the scheduler says: " + strings.TrimRight(p.unschedulable, ". ")}
	n, ok := get[*node](w.cluster.nodes, nodeName)
	if !ok {
		return strings.Join(append([]string{"the node does not exist"}, reasons...), "; ")
	}
	return strings.Join(append(n.refuses(klog.FromContext(ctx), p), reasons...), "; ")
}

// refuses lists what keeps the pod from the node, as far as the node says it.
func (n *node) refuses(logger klog.Logger, p *pod) (reasons []string) {
	if n.cordoned {
		reasons = append(reasons, "the node is cordoned")
	}
	if !n.ready {
		reasons = append(reasons, "the node is not ready")
	}
	for i := range n.taints {
		if taint := &n.taints[i]; !p.tolerates(logger, taint) {
			reasons = append(reasons, "the pod does not tolerate the node's taint "+taint.ToString())
		}
	}
	for key, value := range p.nodeSelector {
		if n.Labels[key] != value {
			reasons = append(reasons, fmt.Sprintf("the pod wants a node with the label %s=%s", key, value))
		}
	}
	slices.Sort(reasons) // always the same text: it is told once
	return reasons
}

func (p *pod) tolerates(logger klog.Logger, taint *corev1.Taint) bool {
	return slices.ContainsFunc(p.tolerations, func(t corev1.Toleration) bool {
		return t.ToleratesTaint(logger, taint, false)
	})
}

// tellPods hands the reason why a claim's volume could not be made on to the pods that wait for it:
// their owner looks there.
func (w *waiting) tellPods(key string) {
	f, ok := get[*failure](w.cluster.failures, key)
	if !ok { // expired
		return
	}
	c, ok := get[*claim](w.cluster.claims, f.claim)
	if !ok || c.volume != "" || !w.isOurs(c) {
		return
	}
	if progress, goesOn := job.ProgressIn(f.message); goesOn {
		w.tellProgress(f.claim, c, progress)
		return
	}
	for _, p := range indexed[*pod](w.cluster.pods, byClaim, f.claim) {
		text := fmt.Sprintf("The volume of claim %s could not be created: %s", c.Name, f.message)
		if w.isNew(p.Namespace+"/"+p.Name, "failure of "+f.claim, text) {
			w.recorder.Event(reference("Pod", p), corev1.EventTypeWarning, reasonClaimFailed, text)
		}
	}
}

// tellProgress says to the owners of a claim and of its pods how far the copy is that becomes the
// claim's volume. For external-provisioner each call that ends before the copy has failed, and its
// own event says so.
func (w *waiting) tellProgress(key string, c *claim, progress string) {
	if !w.isProgressDue(key) {
		return
	}
	text := fmt.Sprintf("The volume of claim %s is being copied from its source: %s. Nothing is "+
		"wrong: the claim is bound when the copy is complete.", c.Name, progress)
	w.recorder.Event(reference(claimKind, c), corev1.EventTypeNormal, reasonBeingCopied, text)
	for _, p := range indexed[*pod](w.cluster.pods, byClaim, key) {
		w.recorder.Event(reference("Pod", p), corev1.EventTypeNormal, reasonBeingCopied, text)
	}
}

func (w *waiting) isProgressDue(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.copying, func(_ string, last time.Time) bool {
		return time.Since(last) >= progressInterval
	})
	if _, isEarly := w.copying[key]; isEarly {
		return false
	}
	w.copying[key] = time.Now()
	return true
}

// isNew says whether a pod's owner has not been told the text last. about is the claim, or its
// failure.
func (w *waiting) isNew(pod, about, text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told[pod] == nil {
		w.told[pod] = map[string]string{}
	}
	if w.told[pod][about] == text {
		return false
	}
	w.told[pod][about] = text
	return true
}

func (w *waiting) forget(pod string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.told, pod)
}
