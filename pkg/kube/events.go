package kube

import (
	"context"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// NewEventRecorder returns a recorder that sends events in the background, and the same event again
// as a higher count. The caller calls stop, which drops the events that are not sent yet.
func NewEventRecorder(ctx context.Context, client kubernetes.Interface, component string,
) (recorder record.EventRecorder, stop func()) {
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return b.NewRecorder(scheme.Scheme, core.EventSource{Component: component}), b.Shutdown
}
