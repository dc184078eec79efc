package kube

import (
	"cmp"
	"context"
	"fmt"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// OnceEvent is an event that is sent once, whichever process sends it.
type OnceEvent struct {
	// Name is the event's, in the namespace of what it is about. It decides what is the same event.
	Name string
	// Component is who sends it.
	Component string
	About     *core.ObjectReference
	// Type is Normal or Warning.
	Type, Reason, Message string
}

// SendOnce sends an event, unless the API server still has one of that name: it keeps events for an
// hour by default. When SendOnce returns, the API server has the event on its disk. Errors: those
// of the request.
func SendOnce(ctx context.Context, client kubernetes.Interface, e OnceEvent) error {
	now := meta.Now()
	namespace := cmp.Or(e.About.Namespace, meta.NamespaceDefault) // as client-go's recorder does
	_, err := client.CoreV1().Events(namespace).Create(ctx, &core.Event{
		ObjectMeta:          meta.ObjectMeta{Namespace: namespace, Name: e.Name},
		InvolvedObject:      *e.About,
		Type:                e.Type,
		Reason:              e.Reason,
		Message:             e.Message,
		Source:              core.EventSource{Component: e.Component},
		ReportingController: e.Component,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
	}, meta.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("send an event: %w", err)
	}
	return nil
}
