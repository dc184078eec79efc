package reach

import (
	"context"
	"fmt"
	"io"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
)

// Forward listens on the loopback address and forwards connections to a port of a pod, until the
// context ends. local is the port to listen on; 0 is any. ready is told which one it is.
func (p Pods) Forward(
	ctx context.Context, pod *core.Pod, port string, local uint16, ready func(local uint16),
) error {
	dialer, err := p.dialer(pod)
	if err != nil {
		return err
	}
	isReady := make(chan struct{})
	forwarder, err := portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"},
		[]string{fmt.Sprintf("%d:%s", local, port)}, isReady, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case err := <-ended:
		return fmt.Errorf("port-forward to pod %s/%s: %w", pod.Namespace, pod.Name, err)
	case <-isReady:
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	ready(ports[0].Local)
	if err := <-ended; ctx.Err() == nil {
		return fmt.Errorf("port-forward to pod %s/%s has ended: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
