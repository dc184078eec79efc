package driver

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/preflight"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// surroundings knows whether what the driver mounts can reach the node's pods.
type surroundings struct {
	checker preflight.Checker // of run alone

	mu     sync.Mutex
	faults []error
}

// newSurroundings checks for the first time, and logs what it finds.
func newSurroundings(ctx context.Context, kubeletDir string) *surroundings {
	s := &surroundings{checker: preflight.Checker{KubeletDir: kubeletDir}}
	if name := preflight.OtherName(kubeletDir); name != "" {
		klog.FromContext(ctx).Info("Kubelet's directory has another name in its filesystem. "+
			"If kubelet uses that one, give it to --kubelet-dir", "kubeletDir", kubeletDir, "name", name)
	}
	s.check(ctx)
	return s
}

// run checks again whenever the mount table has changed, and with each poolRetry, until the context
// ends.
func (s *surroundings) run(ctx context.Context, changes *signal) {
	for {
		changed := changes.next()
		s.check(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// check logs what has changed.
func (s *surroundings) check(ctx context.Context) {
	faults := s.checker.Check()
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
func (s *surroundings) all() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// notReady returns the faults as one error. Errors: ErrNode.
func (s *surroundings) notReady() error { return errors.Join(s.all()...) }

// states are what strangers may know of the faults.
func (s *surroundings) states() (states []state) {
	for _, fault := range s.all() {
		states = append(states, state{subject: "node", reason: volume.ReasonOf(fault)})
	}
	return states
}

// refuseMounts is a grpc.UnaryServerInterceptor. It refuses the calls that would report a mount
// that no pod can see. Calls that unmount go on.
func (s *surroundings) refuseMounts(
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
