package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// Two replicas send about two requests in retryPeriod. The leader of before is replaced after
// leaseDuration at the latest; a leader that stops gives the lease back at once.
const (
	leaseDuration = 60 * time.Second
	renewDeadline = 40 * time.Second
	retryPeriod   = 15 * time.Second
	// giveBackTimeout bounds what an API server that does not answer adds to the end of a process.
	giveBackTimeout = 5 * time.Second
)

// Lease says which Lease object makes one of several processes the leader.
type Lease struct {
	Namespace, Name string
	// Identity is the process, and no other: two pods may have had the same name, one after the other.
	Identity string
}

// RunAsLeader calls run whenever this process becomes the leader, until the context ends. The
// context of run ends when the process is the leader no more; RunAsLeader waits for run to return
// before it gives the lease back or tries again. An error of run ends it.
func RunAsLeader(
	ctx context.Context, client kubernetes.Interface, lease Lease,
	run func(ctx context.Context) error,
) error {
	return runAsLeader(ctx, client, lease, leaseTiming{leaseDuration, renewDeadline, retryPeriod}, run)
}

// leaseTiming has what tests shorten.
type leaseTiming struct{ duration, deadline, retry time.Duration }

func runAsLeader(
	ctx context.Context, client kubernetes.Interface, lease Lease, timing leaseTiming,
	run func(ctx context.Context) error,
) error {
	for ctx.Err() == nil {
		t := &term{lease: lease, run: run, ended: make(chan error, 1), lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: lease.Namespace, Name: lease.Name},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: lease.Identity},
		}}
		if err := t.serve(ctx, timing); err != nil {
			return err
		}
	}
	return nil
}

// term is the time from trying to become the leader until the end of being it.
type term struct {
	lease Lease
	lock  *resourcelock.LeaseLock
	run   func(ctx context.Context) error
	ended chan error // what run has returned

	mu      sync.Mutex
	started bool // run was called
	over    bool // run must not be called any more
}

// serve returns when the process is the leader no more, and run has returned.
func (t *term) serve(ctx context.Context, timing leaseTiming) error {
	// The election ends after run, not with the context: until then no other process may lead.
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          t.lock,
		LeaseDuration: timing.duration,
		RenewDeadline: timing.deadline,
		RetryPeriod:   timing.retry,
		Name:          t.lease.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { t.lead(ctx, leading, stop) },
			OnStoppedLeading: func() {},
		},
		// It would give the lease back before it tells run to stop.
		ReleaseOnCancel: false,
	})
	if err != nil {
		return fmt.Errorf("elect a leader with the lease %s/%s: %w", t.lease.Namespace, t.lease.Name, err)
	}
	watching := context.AfterFunc(ctx, func() {
		if !t.end() { // else lead stops the election
			stop()
		}
	})
	defer watching()
	elector.Run(electing)
	if !t.end() {
		return nil
	}
	err = <-t.ended
	t.giveBack(context.WithoutCancel(ctx))
	return err
}

// end keeps run from being called from now on, and says whether it was.
func (t *term) end() (started bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	return t.started
}

// lead calls run with a context that ends with each of the two.
func (t *term) lead(ctx, leading context.Context, stop func()) {
	defer stop()
	t.mu.Lock()
	t.started = !t.over
	started := t.started
	t.mu.Unlock()
	if !started {
		return
	}
	running, cancel := context.WithCancel(leading)
	defer cancel()
	stopWatching := context.AfterFunc(ctx, cancel)
	defer stopWatching()
	t.ended <- t.run(running)
}

// giveBack lets another process become the leader at once. If that fails, the lease runs out.
func (t *term) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
	defer cancel()
	record, _, err := t.lock.Get(ctx)
	if err == nil && record.HolderIdentity != t.lease.Identity {
		return
	}
	if err == nil {
		now := metav1.Now()
		err = t.lock.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaderTransitions:    record.LeaderTransitions,
			LeaseDurationSeconds: 1, // zero is not valid
			AcquireTime:          now,
			RenewTime:            now,
		})
	}
	if err != nil {
		klog.FromContext(ctx).Info("The lease is not given back: it runs out", "lease", t.lease.Name,
			"after", leaseDuration, "err", err.Error())
	}
}
