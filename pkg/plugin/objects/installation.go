package objects

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// What the chart gives to its objects.
const (
	DefaultDriver    = "hostpath.csi.local"
	DefaultNamespace = "csi-hostpath"

	nameLabel      = "app.kubernetes.io/name"
	chartName      = "csi-hostpath"
	componentLabel = "app.kubernetes.io/component"
	instanceLabel  = "app.kubernetes.io/instance"

	// DriverContainer and ControllerContainer are the containers of the project's own programs.
	DriverContainer     = "driver"
	ControllerContainer = "controller"
)

// Installation is the driver in a cluster, as the objects of its chart have it.
type Installation struct {
	// Driver is the name of the CSI driver.
	Driver string
	// Namespace is where the driver runs. It is empty if the user may not see it: then the rest is
	// unknown, too.
	Namespace string
	// DaemonSet has the driver's pods.
	DaemonSet *apps.DaemonSet
	// Deployments are the controller, the placer and the snapshot-controller, as far as there are.
	Deployments []*apps.Deployment
}

// IsVisible says whether the user may see the installation.
func (i *Installation) IsVisible() bool { return i.DaemonSet != nil }

// IsCentral says whether nodes have a link to a controller.
func (i *Installation) IsCentral() bool {
	return i.driverFlag("controller-address") != ""
}

// Endpoint is the driver's CSI socket for kubelet, as a URL, in the driver's container.
func (i *Installation) Endpoint() string { return i.driverFlag("endpoint") }

func (i *Installation) driverFlag(name string) string {
	if i.DaemonSet == nil {
		return ""
	}
	return flagOf(i.DaemonSet.Spec.Template.Spec, DriverContainer, name)
}

// Controller is the Deployment of the controller; nil in node deployment.
func (i *Installation) Controller() *apps.Deployment { return i.component("controller") }

// SnapshotController is the Deployment of the chart's snapshot-controller, or nil.
func (i *Installation) SnapshotController() *apps.Deployment {
	return i.component("snapshot-controller")
}

func (i *Installation) component(name string) *apps.Deployment {
	at := slices.IndexFunc(i.Deployments, func(d *apps.Deployment) bool {
		return d.Labels[componentLabel] == name
	})
	if at < 0 {
		return nil
	}
	return i.Deployments[at]
}

// StatusPort is the port, on the loopback address of a pod, of the status API of a container.
// It is empty if the pods have none.
func StatusPort(spec core.PodSpec, container string) string {
	_, port, err := net.SplitHostPort(flagOf(spec, container, "status-address"))
	if err != nil {
		return ""
	}
	return port
}

// MetricsPort is the port of the metrics and of /statusz of a container.
func MetricsPort(spec core.PodSpec, container string) string {
	_, port, err := net.SplitHostPort(flagOf(spec, container, "metrics-address"))
	if err != nil {
		return ""
	}
	return port
}

// flagOf is the value of a flag in the arguments of a container.
func flagOf(spec core.PodSpec, container, name string) string {
	for _, c := range spec.Containers {
		if c.Name != container {
			continue
		}
		for _, arg := range c.Args {
			if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
				return value
			}
		}
	}
	return ""
}

// Find finds the installation in a namespace, or, if namespace is empty, in all that the user may
// list. A user who may not see it gets one that is not visible. driver, if not empty, says which of
// several is meant. Errors: there are several.
func (r *Reader) Find(ctx context.Context, namespace, driver string) (*Installation, error) {
	sets, err := r.driverSets(ctx, namespace)
	if err != nil {
		return nil, err
	}
	var found []*Installation
	for _, set := range sets {
		name := flagOf(set.Spec.Template.Spec, DriverContainer, "driver-name")
		if name != "" && (driver == "" || driver == name) {
			found = append(found, &Installation{
				Driver: name, Namespace: set.Namespace, DaemonSet: set,
			})
		}
	}
	switch len(found) {
	case 0:
		if driver == "" {
			driver = DefaultDriver
		}
		return &Installation{Driver: driver}, nil
	case 1:
	default:
		return nil, fmt.Errorf("there are %d drivers, %s in namespace %s and %s in namespace %s among "+
			"them: choose one with --driver-namespace or --driver", len(found), found[0].Driver,
			found[0].Namespace, found[1].Driver, found[1].Namespace)
	}
	i := found[0]
	i.Deployments, err = r.Deployments(ctx, i.Namespace, labels.Set{
		instanceLabel: i.DaemonSet.Labels[instanceLabel],
	}.String())
	return i, err
}

// driverSets are the DaemonSets that may be the driver's. A user who may not list those of all
// namespaces may be able to list those of the chart's.
func (r *Reader) driverSets(ctx context.Context, namespace string) ([]*apps.DaemonSet, error) {
	if namespace != "" {
		return r.DaemonSets(ctx, namespace, "")
	}
	everywhere := &Reader{Client: r.Client}
	sets, err := everywhere.DaemonSets(ctx, "", nameLabel+"="+chartName)
	if err != nil || everywhere.MayList("daemonsets") {
		return sets, err
	}
	return r.DaemonSets(ctx, DefaultNamespace, "")
}

// DriverPods are the driver's pods, one a node.
func (r *Reader) DriverPods(ctx context.Context, i *Installation) ([]*core.Pod, error) {
	return r.Pods(ctx, i.Namespace, metav1.FormatLabelSelector(i.DaemonSet.Spec.Selector))
}

// DriverPodOn is the driver's pod on a node; nil: there is none that runs.
func (r *Reader) DriverPodOn(
	ctx context.Context, i *Installation, node string,
) (*core.Pod, error) {
	pods, err := r.PodsOfNode(ctx, i.Namespace,
		metav1.FormatLabelSelector(i.DaemonSet.Spec.Selector), node)
	if err != nil {
		return nil, err
	}
	return running(pods), nil
}

// ControllerPods are the pods of the controller; there are none in node deployment.
func (r *Reader) ControllerPods(ctx context.Context, i *Installation) ([]*core.Pod, error) {
	d := i.Controller()
	if d == nil {
		return nil, nil
	}
	return r.Pods(ctx, i.Namespace, metav1.FormatLabelSelector(d.Spec.Selector))
}

// running is the first pod that runs and is not being deleted.
func running(pods []*core.Pod) *core.Pod {
	for _, pod := range pods {
		if pod.Status.Phase == core.PodRunning && pod.DeletionTimestamp == nil {
			return pod
		}
	}
	return nil
}
