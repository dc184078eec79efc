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
	down bool // its driver does not run
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

// targets are the pods to ask: the driver of each node, or the controllers, of which any one
// answers for all nodes. Those that are ready come first.
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
	pods = slices.DeleteFunc(pods, func(pod *core.Pod) bool {
		return !isRunning(pod, objects.ControllerContainer)
	})
	if len(pods) == 0 {
		return nil, errors.New("no controller runs that you may see: look at kubectl -n " +
			s.installation.Namespace + " get pods")
	}
	slices.SortFunc(pods, func(a, b *core.Pod) int {
		return cmp.Or(boolOrder(isReadyPod(b))-boolOrder(isReadyPod(a)), cmp.Compare(a.Name, b.Name))
	})
	var targets []target
	for _, pod := range pods {
		if port := objects.StatusPort(pod.Spec, objects.ControllerContainer); port != "" {
			targets = append(targets, target{pod: pod, port: port})
		}
	}
	if len(targets) == 0 {
		return nil, errNoStatus
	}
	return targets, nil
}

// driverTargets has one target a node. A node whose driver does not run is missing in what the
// others say, so it has a target, too.
func (s *session) driverTargets(ctx context.Context) (targets []target, err error) {
	pods, err := s.DriverPods(ctx, s.installation)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(pods, func(a, b *core.Pod) int { // of a node, the one that runs
		return boolOrder(isRunning(b, objects.DriverContainer)) -
			boolOrder(isRunning(a, objects.DriverContainer))
	})
	seen := map[string]bool{}
	for _, pod := range pods {
		port, node := objects.StatusPort(pod.Spec, objects.DriverContainer), pod.Spec.NodeName
		if port == "" || node == "" || seen[node] {
			continue
		}
		seen[node] = true
		down := !isRunning(pod, objects.DriverContainer)
		targets = append(targets, target{pod: pod, node: node, port: port, down: down})
	}
	if len(targets) == 0 && len(pods) > 0 {
		return nil, errNoStatus
	}
	return targets, nil
}

// isRunning says whether a container of a pod runs: sidecars beside one that crashes again and
// again do not count.
func isRunning(pod *core.Pod, container string) bool {
	return pod.Status.Phase == core.PodRunning && pod.DeletionTimestamp == nil &&
		slices.ContainsFunc(pod.Status.ContainerStatuses, func(c core.ContainerStatus) bool {
			return c.Name == container && c.State.Running != nil
		})
}

// ask calls f with the status API of each target, several at a time, and adds what could not be
// asked to missing. If none could be asked, that is the error. In central deployment one controller
// is asked.
func (s *session) ask(
	ctx context.Context, f func(context.Context, reach.API) error,
) (missing []status.Missing, err error) {
	targets, err := s.targets(ctx)
	if err != nil {
		return nil, err
	}
	if s.installation.IsCentral() {
		return nil, s.askAny(ctx, targets, f)
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

// askAny calls f with the first target that answers. f may be called again after it has failed.
func (s *session) askAny(
	ctx context.Context, targets []target, f func(context.Context, reach.API) error,
) (err error) {
	for _, t := range targets {
		if err = s.askOne(ctx, t, f); err == nil || ctx.Err() != nil || errors.Is(err, errForbidden) {
			return err
		}
	}
	return err
}

// errForbidden: the user may not open a tunnel.
var errForbidden = errors.New("you may not port-forward to pods")

func (s *session) askOne(
	ctx context.Context, t target, f func(context.Context, reach.API) error,
) error {
	if t.down {
		return fmt.Errorf("its driver, pod %s, does not run", t.pod.Name)
	}
	api, done, err := s.statusOf(s.pods, t)
	if isForbidden(err) {
		return fmt.Errorf("%w of namespace %s", errForbidden, t.pod.Namespace)
	}
	if err != nil {
		return err
	}
	defer done() //nolint:errcheck // a tunnel that was read
	api.Node = t.node
	return f(ctx, api)
}

// isForbidden: the upgrade of a connection is refused with a text only.
func isForbidden(err error) bool {
	return err != nil && (apierrors.IsForbidden(err) ||
		strings.Contains(strings.ToLower(err.Error()), "forbidden"))
}

// list reads a list of the status API from all targets. What a driver says is of the driver's node,
// whatever node it says.
func list[T any](
	ctx context.Context, s *session, resource string, query url.Values,
) (items []T, missing []status.Missing, err error) {
	var mu sync.Mutex
	var told []status.Missing
	missing, err = s.ask(ctx, func(ctx context.Context, api reach.API) error {
		some, absent, err := reach.List[T](ctx, api, resource, query)
		if api.Node != "" {
			attribute(api.Node, some, absent)
		}
		mu.Lock()
		defer mu.Unlock()
		items, told = append(items, some...), append(told, absent...)
		return err
	})
	missing = append(missing, told...)
	slices.SortStableFunc(missing, func(a, b status.Missing) int { // nodes answer in any order
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pool, b.Pool))
	})
	return items, missing, err
}

// attribute enters the node that has told of items, and of what is missing.
func attribute[T any](node string, items []T, missing []status.Missing) {
	for i := range items {
		switch item := any(&items[i]).(type) {
		case *status.Pool:
			item.Node = node
		case *status.Volume:
			item.Node = node
		case *status.Snapshot:
			item.Node = node
		case *status.TrashEntry:
			item.Node = node
		case *status.Copy:
			item.Node = node
		case *status.Node:
			item.Name = node
		}
	}
	for i := range missing {
		missing[i].Node = node
	}
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
