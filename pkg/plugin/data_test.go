package plugin

import (
	"context"
	"errors"
	"slices"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
)

// controllers has a controller that crashes beside a sidecar that runs, one that is not ready, and
// two that are.
func controllers(t *testing.T) *testCluster {
	t.Helper()
	c := newTestCluster(t)
	list, err := (&objects.Reader{Client: c.client}).Pods(t.Context(), objects.DefaultNamespace,
		"app.kubernetes.io/component=controller")
	if err != nil || len(list) != 1 {
		t.Fatalf("%d controllers, %v", len(list), err)
	}
	first := list[0]
	for _, name := range []string{"controller-b", "controller-c", "controller-d"} {
		pod := first.DeepCopy()
		pod.ObjectMeta = metaOf(objects.DefaultNamespace, name)
		pod.Labels = first.Labels
		if name == "controller-b" {
			pod.Status.Conditions = nil
		}
		if err := c.client.Tracker().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	first.Status.ContainerStatuses = []core.ContainerStatus{
		{Name: objects.ControllerContainer, State: core.ContainerState{
			Waiting: &core.ContainerStateWaiting{Reason: "CrashLoopBackOff"},
		}},
		{Name: "csi-provisioner", State: core.ContainerState{
			Running: &core.ContainerStateRunning{},
		}},
	}
	if err := c.client.Tracker().Update(core.SchemeGroupVersion.WithResource("pods"), first,
		first.Namespace); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheNextControllerIsAskedIfOneFails(t *testing.T) {
	c := controllers(t)
	p := &plugin{connect: func() (*objects.Reader, reach.Pods, error) {
		return &objects.Reader{Client: c.client, Dynamic: c.dynamic}, reach.Pods{}, nil
	}}
	s, err := p.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	failure := errors.New("connection refused")
	s.statusOf = func(_ reach.Pods, at target) (reach.API, func() error, error) {
		if asked = append(asked, at.pod.Name); at.pod.Name == "controller-c" {
			return reach.API{}, nil, failure
		}
		return reach.API{}, func() error { return nil }, nil
	}
	_, err = s.ask(t.Context(), func(context.Context, reach.API) error { return nil })
	if want := []string{"controller-c", "controller-d"}; err != nil || !slices.Equal(asked, want) {
		t.Errorf("%q were asked, %v; want %q", asked, err, want)
	}
	asked = nil
	_, err = s.ask(t.Context(), func(context.Context, reach.API) error { return failure })
	want := []string{"controller-c", "controller-d", "controller-b"}
	if !errors.Is(err, failure) || !slices.Equal(asked, want) {
		t.Errorf("%q were asked, %v; want %q", asked, err, want)
	}
}

func TestANodeWhoseDriverDoesNotRunIsMissing(t *testing.T) {
	c := newTestCluster(t)
	spec := podTemplate("driver", "--driver-name="+objects.DefaultDriver,
		"--status-address=127.0.0.1:9815")
	labels := map[string]string{"app": "d"}
	set, err := c.client.AppsV1().DaemonSets(objects.DefaultNamespace).Get(t.Context(),
		"csi-hostpath", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	set.Spec.Selector.MatchLabels, set.Spec.Template.Spec = labels, spec
	down := runningPod("d-b", labels, spec)
	down.Spec.NodeName = "node-b"
	down.Status.ContainerStatuses[0].State = core.ContainerState{}
	old := down.DeepCopy()
	old.Name, old.Spec.NodeName = "a-old", "node-a"
	s := &session{
		plugin: &plugin{statusOf: func(reach.Pods, target) (reach.API, func() error, error) {
			return reach.API{}, func() error { return nil }, nil
		}},
		Reader:       &objects.Reader{Client: c.client},
		installation: &objects.Installation{Namespace: objects.DefaultNamespace, DaemonSet: set},
	}
	for _, pod := range []*core.Pod{runningPod("d-a", labels, spec), down, old} {
		if err := c.client.Tracker().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	missing, err := s.ask(t.Context(), func(context.Context, reach.API) error { return nil })
	if err != nil || len(missing) != 1 || missing[0].Node != "node-b" ||
		missing[0].Reason != "its driver, pod d-b, does not run" {
		t.Errorf("%v, %v", missing, err)
	}
}
