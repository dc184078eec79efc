package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/preflight"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// nodeChecks know whether what the driver mounts can reach the node's pods.
type nodeChecks struct {
	kubeletDir string
	patience   time.Duration     // stuck.Patience, except in tests
	checker    preflight.Checker // of one check at a time

	mu     sync.Mutex
	faults []error
}

// newNodeChecks has not checked anything yet.
func newNodeChecks(kubeletDir string) *nodeChecks {
	return &nodeChecks{
		kubeletDir: kubeletDir,
		patience:   stuck.Patience,
		checker:    preflight.Checker{KubeletDir: kubeletDir},
	}
}

// where is kubelet's directory, for messages.
func (s *nodeChecks) where() string { return "kubelet's directory " + s.kubeletDir }

// run checks again whenever the mount table has changed, and with each poolRetry, until the context
// ends.
func (s *nodeChecks) run(ctx context.Context, changes *signal) {
	for {
		changed := changes.next()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		_ = s.check(ctx) // it fails only with the context
	}
}

func (s *nodeChecks) logOtherName(ctx context.Context) {
	if name := preflight.OtherName(s.kubeletDir); name != "" {
		klog.FromContext(ctx).Info("Kubelet's directory has another name in its filesystem. "+
			"If kubelet uses that one, give it to --kubelet-dir", "kubeletDir", s.kubeletDir, "name", name)
	}
}

// check finds the faults, and logs what has changed. Errors: the context's cause.
func (s *nodeChecks) check(ctx context.Context) error {
	var faults []error
	err := s.await(ctx, s.where(), func() error { faults = s.checker.Check(); return nil })
	if err == nil {
		s.set(ctx, faults)
	}
	return err
}

// await returns what ask returns, which asks a filesystem. If that does not answer in time, it is a
// fault of the node, until the next check, and await waits on. Errors: also the context's cause;
// then ask may still be under way.
func (s *nodeChecks) await(ctx context.Context, where string, ask func() error) error {
	answer := make(chan error, 1)
	go func() { answer <- ask() }()
	timer := time.NewTimer(s.patience)
	defer timer.Stop()
	since := time.Now()
	for {
		select {
		case err := <-answer:
			return err
		case <-timer.C:
			s.set(ctx, []error{volume.Because(volume.ReasonKubeletHangs, fmt.Errorf(
				"%w: that of %s, since %s", volume.ErrUnresponsive, where,
				since.UTC().Format(time.RFC3339)))})
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// set replaces the faults, and logs what has changed.
func (s *nodeChecks) set(ctx context.Context, faults []error) {
	s.mu.Lock()
	before := s.faults
	s.faults = faults
	s.mu.Unlock()
	logger := klog.FromContext(ctx)
	for _, fault := range faults {
		if !slices.ContainsFunc(before, func(b error) bool { return b.Error() == fault.Error() }) {
			logger.Error(fault, "The node cannot have volumes; it is looked at again", "every", poolRetry)
		}
	}
	if len(faults) == 0 && len(before) > 0 {
		logger.Info("The node can have volumes")
	}
}

// all returns the faults.
func (s *nodeChecks) all() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// notReady returns the faults as one error. Errors: ErrNode, ErrUnresponsive.
func (s *nodeChecks) notReady() error { return errors.Join(s.all()...) }

// states are what strangers may know of the faults.
func (s *nodeChecks) states() (states []state) {
	for _, fault := range s.all() {
		states = append(states, state{subject: "node", reason: volume.ReasonOf(fault)})
	}
	return states
}

// reasons are why the node can have no volumes.
func (s *nodeChecks) reasons() (reasons []volume.Reason) {
	for _, fault := range s.all() {
		reasons = append(reasons, volume.ReasonOf(fault))
	}
	return reasons
}

// refuseMounts is a grpc.UnaryServerInterceptor. It refuses the calls that would report a mount
// that no pod can see. Calls that unmount go on.
func (s *nodeChecks) refuseMounts(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	switch req.(type) {
	case *csi.NodeStageVolumeRequest, *csi.NodePublishVolumeRequest:
		if err := s.notReady(); err != nil {
			return nil, err
		}
	}
	return handler(ctx, req)
}
