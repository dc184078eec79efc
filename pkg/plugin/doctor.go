package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/doctor"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// errFaults: doctor has found faults, and has printed them.
var errFaults = errors.New("there are faults: see above")

func (p *plugin) doctorCommand() *cobra.Command {
	var format string
	all, quiet := true, false
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong, and say what to do",
		Long: "Make every check of docs/troubleshooting.md: of the installation, the nodes, the pools, " +
			"the claims, the pods, the snapshots and what waits to be deleted. The exit code is 1 if " +
			"there is an error.",
		Example: "  kubectl hostpath doctor\n" +
			"  kubectl hostpath doctor --quiet -n shop --all-namespaces=false",
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVarP(&format, "output", "o", "", "output format: json or yaml")
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", true,
		"look at claims and pods of all namespaces")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only what is wrong")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if format != "" && format != output.JSON && format != output.YAML {
			return fmt.Errorf("-o %s: want one of json, yaml", format)
		}
		findings, notShown, err := p.diagnose(cmd.Context(), all)
		if err != nil {
			return err
		}
		if err := p.printFindings(findings, format, quiet); err != nil {
			return err
		}
		p.sayOnce(map[string]bool{}, notShown)
		if doctor.Worst(findings) == doctor.Error {
			return errFaults
		}
		return nil
	}
	return cmd
}

// diagnose gathers the facts and makes the checks. A user who may not list the claims of all
// namespaces gets those of the current one.
func (p *plugin) diagnose(
	ctx context.Context, all bool,
) (findings []doctor.Finding, notShown []string, err error) {
	s, err := p.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	if all {
		if all, err = s.mayListClaims(ctx, ""); err != nil {
			return nil, nil, err
		}
	}
	facts, err := s.facts(ctx, all)
	if err != nil {
		return nil, nil, err
	}
	return doctor.Examine(facts), facts.NotShown, nil
}

// facts reads what the checks look at, side by side.
func (s *session) facts(ctx context.Context, all bool) (*doctor.Facts, error) {
	namespace, err := s.namespace(all)
	if err != nil {
		return nil, err
	}
	f := &doctor.Facts{Now: s.now(), Installation: s.installation, AllNamespaces: all}
	group, ctx := errgroup.WithContext(ctx)
	read(group, &f.Drivers, func() ([]driverObject, error) { return s.Drivers(ctx) })
	read(group, &f.Nodes, func() ([]*core.Node, error) { return s.Nodes(ctx) })
	read(group, &f.CSINodes, func() ([]csiNode, error) { return s.CSINodes(ctx) })
	read(group, &f.Classes, func() ([]class, error) { return s.Classes(ctx) })
	read(group, &f.Volumes, func() ([]*core.PersistentVolume, error) { return s.Volumes(ctx) })
	read(group, &f.Claims, func() ([]*core.PersistentVolumeClaim, error) {
		return s.Claims(ctx, namespace)
	})
	read(group, &f.Pods, func() ([]*core.Pod, error) { return s.Pods(ctx, namespace, "") })
	for kind, events := range map[string]*[]*core.Event{
		"PersistentVolumeClaim": &f.ClaimEvents, "Pod": &f.PodEvents,
	} {
		read(group, events, func() ([]*core.Event, error) { return s.Events(ctx, namespace, kind) })
	}
	read(group, &f.VolumeEvents, func() ([]*core.Event, error) {
		return s.Events(ctx, "default", "PersistentVolume") // those of objects without a namespace
	})
	read(group, &f.Snapshots, func() ([]object, error) { return s.Snapshots(ctx, namespace) })
	read(group, &f.SnapshotContent, func() ([]object, error) { return s.SnapshotContents(ctx) })
	read(group, &f.SnapshotClasses, func() ([]object, error) { return s.SnapshotClasses(ctx) })
	group.Go(func() (err error) { f.SnapshotAPI, err = s.HasSnapshotAPI(); return err })
	if s.installation.IsVisible() {
		s.readInstallation(ctx, group, f)
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	s.askNotReady(ctx, f)
	f.NotShown = s.NotShown()
	return f, nil
}

// read reads a list beside others.
func read[T any](group *errgroup.Group, into *[]T, list func() ([]T, error)) {
	group.Go(func() (err error) { *into, err = list(); return err })
}

// readInstallation reads what is in the driver's namespace, and asks the status API.
func (s *session) readInstallation(ctx context.Context, group *errgroup.Group, f *doctor.Facts) {
	read(group, &f.DriverPods, func() ([]*core.Pod, error) {
		return s.DriverPods(ctx, s.installation)
	})
	read(group, &f.ControllerPods, func() ([]*core.Pod, error) {
		return s.ControllerPods(ctx, s.installation)
	})
	read(group, &f.Leases, func() ([]lease, error) {
		return s.Leases(ctx, s.installation.Namespace)
	})
	read(group, &f.Capacities, func() ([]capacity, error) {
		return s.Capacities(ctx, s.installation.Namespace)
	})
	group.Go(func() error { f.Data, f.DataError = s.data(ctx); return nil })
}

// data is what the status API says of everything.
func (s *session) data(ctx context.Context) (*doctor.Data, error) {
	var d doctor.Data
	var missing [3][]status.Missing
	var err error
	if d.Pools, d.Missing, err = list[status.Pool](ctx, s, "pools", nil); err != nil {
		return nil, err
	}
	if d.Volumes, missing[0], err = list[status.Volume](ctx, s, "volumes", nil); err != nil {
		return nil, err
	}
	if d.Nodes, missing[1], err = list[status.Node](ctx, s, "nodes", nil); err != nil {
		return nil, err
	}
	if d.Snapshots, missing[2], err = list[status.Snapshot](ctx, s, "snapshots", nil); err != nil {
		return nil, err
	}
	type part struct{ node, pool string }
	seen := map[part]bool{}
	for _, m := range d.Missing {
		seen[part{m.Node, m.Pool}] = true
	}
	for _, m := range slices.Concat(missing[:]...) {
		if of := (part{m.Node, m.Pool}); !seen[of] {
			d.Missing, seen[of] = append(d.Missing, m), true
		}
	}
	return &d, nil
}

// maxAskedPods is how many drivers that are not ready are asked why.
const maxAskedPods = 20

// askNotReady reads the page of drivers that are not ready, through the API server's proxy.
func (s *session) askNotReady(ctx context.Context, f *doctor.Facts) {
	f.NodeFaults = map[string][]string{}
	asked := 0
	for _, pod := range f.DriverPods {
		port := objects.MetricsPort(pod.Spec, objects.DriverContainer)
		if !isRunning(pod, objects.DriverContainer) || isReadyPod(pod) || port == "" ||
			asked == maxAskedPods {
			continue
		}
		asked++
		page, err := s.Client.CoreV1().Pods(pod.Namespace).ProxyGet("", pod.Name, port, "statusz", nil).
			DoRaw(ctx)
		switch {
		case isForbidden(err):
			s.Deny("pods/proxy of namespace " + pod.Namespace + ": you may not get it")
			return
		case err == nil:
			f.NodeFaults[pod.Spec.NodeName] = nodeFaults(string(page))
		}
	}
}

// nodeFaults are the reasons in the line about the node of /statusz.
func nodeFaults(page string) (reasons []string) {
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, "node: not ready: "); ok {
			reason, _, _ := strings.Cut(rest, " ")
			reasons = append(reasons, strings.TrimSpace(reason))
		}
	}
	return reasons
}

func isReadyPod(pod *core.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}

// printFindings prints findings: a line each, and what to do below those that are wrong.
func (p *plugin) printFindings(findings []doctor.Finding, format string, quiet bool) error {
	if format != "" {
		l := output.List{Kind: "FindingList"}
		for _, f := range findings {
			if !quiet || f.Severity != doctor.OK {
				l.Rows = append(l.Rows, output.Row{Item: f})
			}
		}
		return output.Print(p.Out, p.Err, format, l)
	}
	for _, g := range doctor.Grouped(findings) {
		if !quiet || g.Severity != doctor.OK {
			p.printGroup(g)
		}
	}
	return nil
}

// maxAlso is how many subjects a line has. -o json has all.
const maxAlso = 20

// printGroup prints what findings say alike, once.
func (p *plugin) printGroup(g doctor.Group) {
	text := g.Message
	if g.Subject != "" {
		text = g.Subject + ": " + g.Message
	}
	fmt.Fprintf(p.Out, "%-8s%-16s%s\n", g.Severity, g.Check, output.Escape(text))
	const indent = "                        "
	if n := len(g.Also); n > 0 {
		also := strings.Join(g.Also[:min(n, maxAlso)], ", ")
		if n > maxAlso {
			also = fmt.Sprintf("%s and %d more", also, n-maxAlso)
		}
		fmt.Fprintln(p.Out, indent+"also: "+output.Escape(also))
	}
	if g.Severity == doctor.OK {
		return
	}
	if g.Remedy != "" {
		fmt.Fprintln(p.Out, indent+"do: "+output.Escape(g.Remedy))
	}
	if g.Reference != "" {
		fmt.Fprintln(p.Out, indent+"see "+output.Escape(g.Reference))
	}
}

// Short names of what the API has.
type (
	driverObject = *storage.CSIDriver
	csiNode      = *storage.CSINode
	class        = *storage.StorageClass
	capacity     = *storage.CSIStorageCapacity
	lease        = *coordination.Lease
	object       = *unstructured.Unstructured
)
