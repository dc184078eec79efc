package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/claims"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxLogs is how many logs are read at a time.
	maxLogs = 8
	// maxFollowed is how many logs are followed: each is a connection that stays.
	maxFollowed = 128
	// maxKeptBytes bounds the lines about the volume, and those that may turn out to be about it.
	maxKeptBytes = 32 << 20
)

func (p *plugin) logsCommand() *cobra.Command {
	var o reach.LogOptions
	cmd := &cobra.Command{
		Use:   "logs CLAIM | PV | VOLUME-ID",
		Short: "What all components have logged about one volume, in order of time",
		Long: "What all components have logged about one volume, in order of time: the node's driver, " +
			"the controller and the sidecars. Lines of a call belong to the volume if a line with the " +
			"same requestID names it.",
		Example: "  kubectl hostpath logs books\n  kubectl hostpath logs pvc-6f2c… --since 1h --follow",
		Args:    cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.Since, "since", 0, "only lines of this last time: 10m; 0: all")
	flags.Int64Var(&o.Tail, "tail", 0, "look only at so many last lines of each log; 0: all")
	flags.BoolVarP(&o.Follow, "follow", "f", false, "also print what is logged from now on")
	cmd.ValidArgsFunction = p.completeClaims
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := p.begin(cmd.Context())
		if err != nil {
			return err
		}
		return s.logs(cmd.Context(), args[0], o)
	}
	return cmd
}

// subject is the volume that logs are about: the names that a line may have, and its node.
type subject struct {
	names []string
	node  string // empty: unknown, or not yet chosen
}

func (s *session) logs(ctx context.Context, name string, o reach.LogOptions) error {
	if !s.installation.IsVisible() {
		return errNotVisible
	}
	what, err := s.subject(ctx, name)
	if err != nil {
		return err
	}
	if what.node == "" {
		what.node = s.nodeOfVolume(ctx, what.names)
	}
	sources, err := s.logSources(ctx, what.node)
	if err != nil {
		return err
	}
	f := newLogFilter(what.names)
	if o.Follow {
		return s.follow(ctx, sources, o, f)
	}
	shown, err := s.readLogs(ctx, sources, o, f)
	if err != nil {
		return err
	}
	s.sayOnce(map[string]bool{}, s.NotShown())
	for _, l := range shown {
		s.printLine(l)
	}
	if len(shown) == 0 {
		fmt.Fprintf(s.Err, "No line of %d logs names %s.\n", len(sources),
			output.Escape(strings.Join(what.names, ", ")))
	}
	return nil
}

// subject finds what a name means: a claim of the namespace, a PersistentVolume, or else itself.
func (s *session) subject(ctx context.Context, name string) (subject, error) {
	namespace, err := s.namespace(false)
	if err != nil {
		return subject{}, err
	}
	c, err := s.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return subject{}, err
	}
	pvName := name
	var what subject
	if err == nil {
		what.names = []string{"pvc-" + string(c.UID), claims.Key{
			Namespace: namespace, Name: name,
		}.String()}
		what.node = c.Annotations[claims.SelectedNode]
		pvName = c.Spec.VolumeName
	}
	if pvName == "" {
		return what, nil
	}
	if what.names = append(what.names, pvName); strings.Contains(pvName, "/") {
		return what, nil
	}
	pv, err := s.Client.CoreV1().PersistentVolumes().Get(ctx, pvName, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		s.Deny("persistentvolumes of the cluster: you may not get them")
	case err == nil && pv.Spec.CSI != nil:
		what.names = append(what.names, pv.Spec.CSI.VolumeHandle)
		index := claims.NewIndex(s.installation.Driver, nil, nil, nil)
		what.node = cmp.Or(index.Node(pv), what.node)
	case err != nil && !apierrors.IsNotFound(err):
		return subject{}, err
	}
	return what, nil
}

// nodeOfVolume asks the status API which node has a volume; empty: none of the names is the ID of a
// volume, or nobody knows it.
func (s *session) nodeOfVolume(ctx context.Context, names []string) (node string) {
	i := slices.IndexFunc(names, func(name string) bool {
		_, err := volume.ParseID(name)
		return err == nil
	})
	if i < 0 {
		return ""
	}
	var mu sync.Mutex
	// Where the API cannot be asked, the logs of all nodes are read, as for a volume that is gone.
	_, _ = s.ask(ctx, func(ctx context.Context, api reach.API) error {
		v, err := api.Volume(ctx, names[i])
		if err != nil || v.ID != names[i] {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		node = v.Node
		return nil
	})
	return node
}

// logSource is a log.
type logSource struct {
	pod       *core.Pod
	container string
	driver    bool // of a node's driver
}

// logSources are the containers that may have something to say about a volume of a node. If the
// node is not known, the drivers of all nodes may.
func (s *session) logSources(ctx context.Context, node string) (sources []logSource, err error) {
	var pods []*core.Pod
	if node == "" {
		pods, err = s.DriverPods(ctx, s.installation)
	} else {
		pods, err = s.PodsOfNode(ctx, s.installation.Namespace,
			metav1.FormatLabelSelector(s.installation.DaemonSet.Spec.Selector), node)
	}
	if err != nil {
		return nil, err
	}
	drivers := len(pods)
	for _, d := range s.installation.Deployments {
		some, err := s.Pods(ctx, s.installation.Namespace, metav1.FormatLabelSelector(d.Spec.Selector))
		if err != nil {
			return nil, err
		}
		pods = append(pods, some...)
	}
	for i, pod := range pods {
		for _, c := range pod.Spec.Containers {
			sources = append(sources, logSource{pod: pod, container: c.Name, driver: i < drivers})
		}
	}
	return sources, nil
}

// readLogs reads logs, several at a time, and returns the lines about the volume in order of time.
// A log that cannot be read is said.
func (s *session) readLogs(
	ctx context.Context, sources []logSource, o reach.LogOptions, f *logFilter,
) ([]reach.Line, error) {
	var read atomic.Int64
	var group errgroup.Group
	group.SetLimit(maxLogs)
	kept := newLogKeeper(f, maxKeptBytes)
	for _, from := range sources {
		group.Go(func() error {
			if err := s.pods.Log(ctx, from.pod, from.container, o, kept.add); err != nil {
				s.Deny(err.Error())
				return nil
			}
			read.Add(1)
			return nil
		})
	}
	_ = group.Wait()
	lines, cut := kept.lines()
	if read.Load() == 0 {
		return nil, errors.Join(append([]error{errors.New("no log could be read")},
			errorsOf(s.NotShown())...)...)
	}
	if cut > 0 {
		s.Deny(fmt.Sprintf("%d further lines about the volume: choose fewer with --since or --tail", cut))
	}
	return lines, nil
}

func errorsOf(lines []string) (errs []error) {
	for _, line := range lines {
		errs = append(errs, errors.New(line))
	}
	return errs
}

// follow prints lines as they come. Lines of a call that come before the one that names the volume
// are not found. If there are too many logs, because nobody knows the node, those of the nodes are
// left out.
func (s *session) follow(
	ctx context.Context, sources []logSource, o reach.LogOptions, f *logFilter,
) error {
	if len(sources) > maxFollowed {
		sources = slices.DeleteFunc(sources, func(from logSource) bool { return from.driver })
		s.sayOnce(map[string]bool{}, []string{"logs of the nodes: the node of the volume is not known, " +
			"and there are too many to follow"})
	}
	var mu sync.Mutex
	var group errgroup.Group
	for _, from := range sources {
		group.Go(func() error {
			return s.pods.Log(ctx, from.pod, from.container, o, func(l reach.Line) {
				mu.Lock()
				defer mu.Unlock()
				if f.matches(l) {
					s.printLine(l)
				}
			})
		})
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (s *session) printLine(l reach.Line) {
	fmt.Fprintf(s.Out, "%s %s/%s %s\n", l.Time.UTC().Format(time.RFC3339), l.Pod, l.Container,
		output.Escape(l.Text))
}
