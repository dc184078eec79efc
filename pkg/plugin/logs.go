package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/claims"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
)

// maxLogs is how many logs are read at a time.
const maxLogs = 8

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
	sources, err := s.logSources(ctx, what.node)
	if err != nil {
		return err
	}
	f := newLogFilter(what.names)
	if o.Follow {
		return s.follow(ctx, sources, o, f)
	}
	lines, err := s.readLogs(ctx, sources, o)
	if err != nil {
		return err
	}
	s.sayOnce(map[string]bool{}, s.NotShown())
	shown := f.choose(lines)
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

// logSource is a log.
type logSource struct {
	pod       *core.Pod
	container string
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
	for _, d := range s.installation.Deployments {
		some, err := s.Pods(ctx, s.installation.Namespace, metav1.FormatLabelSelector(d.Spec.Selector))
		if err != nil {
			return nil, err
		}
		pods = append(pods, some...)
	}
	for _, pod := range pods {
		for _, c := range pod.Spec.Containers {
			sources = append(sources, logSource{pod, c.Name})
		}
	}
	return sources, nil
}

// readLogs reads logs, several at a time, and sorts their lines. A log that cannot be read is said.
func (s *session) readLogs(
	ctx context.Context, sources []logSource, o reach.LogOptions,
) (lines []reach.Line, err error) {
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(maxLogs)
	read := 0
	for _, from := range sources {
		group.Go(func() error {
			var own []reach.Line
			err := s.pods.Log(ctx, from.pod, from.container, o, func(l reach.Line) { own = append(own, l) })
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, own...)
			if err != nil {
				s.Deny(err.Error())
				return nil
			}
			read++
			return nil
		})
	}
	_ = group.Wait()
	if read == 0 {
		return nil, errors.Join(append([]error{errors.New("no log could be read")},
			errorsOf(s.NotShown())...)...)
	}
	sortLines(lines)
	return lines, nil
}

func errorsOf(lines []string) (errs []error) {
	for _, line := range lines {
		errs = append(errs, errors.New(line))
	}
	return errs
}

func sortLines(lines []reach.Line) {
	slices.SortStableFunc(lines, func(a, b reach.Line) int { return a.Time.Compare(b.Time) })
}

// follow prints lines as they come. Lines of a call that come before the one that names the volume
// are not found.
func (s *session) follow(
	ctx context.Context, sources []logSource, o reach.LogOptions, f *logFilter,
) error {
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

// logFilter finds the lines about a volume.
type logFilter struct {
	names    []string
	requests map[string]bool
}

func newLogFilter(names []string) *logFilter {
	return &logFilter{names: names, requests: map[string]bool{}}
}

// requestID is in both formats of the log.
var requestID = regexp.MustCompile(`"?requestID"?[=:]\s?"?([^",\s}]+)`)

// matches says whether a line names the volume, or is of a call of which a line did.
func (f *logFilter) matches(l reach.Line) bool {
	id := ""
	if match := requestID.FindStringSubmatch(l.Text); match != nil {
		id = match[1]
	}
	for _, name := range f.names {
		if strings.Contains(l.Text, name) {
			if id != "" {
				f.requests[id] = true
			}
			return true
		}
	}
	return id != "" && f.requests[id]
}

// choose are the lines about the volume, also those of a call that come before the one that names
// the volume.
func (f *logFilter) choose(lines []reach.Line) (chosen []reach.Line) {
	for _, l := range lines {
		f.matches(l)
	}
	for _, l := range lines {
		if f.matches(l) {
			chosen = append(chosen, l)
		}
	}
	return chosen
}
