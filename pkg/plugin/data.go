package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// maxTunnels is how many drivers are asked at a time in node deployment. In central deployment one
// controller answers for all nodes.
const maxTunnels = 16

// target is a pod with a status API.
type target struct {
	pod  *core.Pod
	node string // empty: the controller, which answers for all
	port string
}

// openStatus opens a tunnel to the status API of a pod. The caller closes it.
func openStatus(pods reach.Pods, t target) (reach.API, func() error, error) {
	tunnel, err := pods.Tunnel(t.pod, t.port)
	if err != nil {
		return reach.API{}, nil, err
	}
	return tunnel.API(), tunnel.Close, nil
}

// errNoStatus: the pods are of an installation without the status API.
var errNoStatus = errors.New("the driver has no status API: it is older than this plugin, or " +
	"status.enabled of the chart is false")

// targets are the pods to ask: a controller, or the driver of each node.
func (s *session) targets(ctx context.Context) ([]target, error) {
	if !s.installation.IsVisible() {
		return nil, errNotVisible
	}
	if !s.installation.IsCentral() {
		return s.driverTargets(ctx)
	}
	pods, err := s.ControllerPods(ctx, s.installation)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(pods, func(a, b *core.Pod) int { return cmp.Compare(a.Name, b.Name) })
	for _, pod := range pods {
		port := objects.StatusPort(pod.Spec, objects.ControllerContainer)
		if !isRunning(pod) || port == "" {
			continue
		}
		return []target{{pod: pod, port: port}}, nil
	}
	if slices.ContainsFunc(pods, isRunning) {
		return nil, errNoStatus
	}
	return nil, errors.New("no controller runs that you may see: look at kubectl -n " +
		s.installation.Namespace + " get pods")
}

func (s *session) driverTargets(ctx context.Context) (targets []target, err error) {
	pods, err := s.DriverPods(ctx, s.installation)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		port := objects.StatusPort(pod.Spec, objects.DriverContainer)
		if isRunning(pod) && port != "" {
			targets = append(targets, target{pod: pod, node: pod.Spec.NodeName, port: port})
		}
	}
	if len(targets) == 0 && len(pods) > 0 {
		return nil, errNoStatus
	}
	return targets, nil
}

func isRunning(pod *core.Pod) bool {
	return pod.Status.Phase == core.PodRunning && pod.DeletionTimestamp == nil &&
		slices.ContainsFunc(pod.Status.ContainerStatuses, func(c core.ContainerStatus) bool {
			return c.State.Running != nil
		})
}

// ask calls f with the status API of each target, several at a time, and adds what could not be
// asked to missing. If none could be asked, that is the error.
func (s *session) ask(
	ctx context.Context, f func(context.Context, reach.API) error,
) (missing []status.Missing, err error) {
	targets, err := s.targets(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(maxTunnels)
	var last error
	for _, t := range targets {
		group.Go(func() error {
			err := s.askOne(ctx, t, f)
			if err == nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			last = err
			missing = append(missing, status.Missing{Node: t.node, Reason: err.Error()})
			return nil
		})
	}
	_ = group.Wait()
	if len(targets) > 0 && len(missing) == len(targets) {
		return nil, last
	}
	return missing, nil
}

func (s *session) askOne(
	ctx context.Context, t target, f func(context.Context, reach.API) error,
) error {
	api, done, err := s.statusOf(s.pods, t)
	if isForbidden(err) {
		return fmt.Errorf("you may not port-forward to pods of namespace %s", t.pod.Namespace)
	}
	if err != nil {
		return err
	}
	defer done() //nolint:errcheck // a tunnel that was read
	return f(ctx, api)
}

// isForbidden: the upgrade of a connection is refused with a text only.
func isForbidden(err error) bool {
	return err != nil && (apierrors.IsForbidden(err) ||
		strings.Contains(strings.ToLower(err.Error()), "forbidden"))
}

// list reads a list of the status API from all targets.
func list[T any](
	ctx context.Context, s *session, resource string, query url.Values,
) (items []T, missing []status.Missing, err error) {
	var mu sync.Mutex
	var told []status.Missing
	missing, err = s.ask(ctx, func(ctx context.Context, api reach.API) error {
		some, absent, err := reach.List[T](ctx, api, resource, query)
		mu.Lock()
		defer mu.Unlock()
		items, told = append(items, some...), append(told, absent...)
		return err
	})
	return items, append(missing, told...), err
}

// hintsOf are lines about what could not be asked.
func hintsOf(what string, missing []status.Missing) (hints []string) {
	const most = 5
	for i, m := range missing {
		if i == most {
			return append(hints, fmt.Sprintf("%s of %d further nodes", what, len(missing)-most))
		}
		where := "node " + m.Node
		if m.Pool != "" {
			where = "pool " + m.Pool + " on " + where
		}
		hints = append(hints, fmt.Sprintf("%s of %s: %s", what, where, m.Reason))
	}
	return hints
}
