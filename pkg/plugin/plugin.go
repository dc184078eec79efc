// Package plugin is `kubectl hostpath`: its commands. They use the kubeconfig and the rights of the
// user, and need nothing in the cluster but the chart.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// How many requests to the API server there may be: a list of 5,000 pods is ten.
const (
	clientQPS   = 50
	clientBurst = 100
)

// Streams are what the plugin writes to.
type Streams struct{ Out, Err io.Writer }

// plugin is what the commands share.
type plugin struct {
	Streams

	kube            *genericclioptions.ConfigFlags
	driverNamespace string
	driver          string
	// connect makes the clients. Tests replace it.
	connect func() (*objects.Reader, reach.Pods, error)
	// statusOf is the status API of a pod. Tests replace it.
	statusOf func(reach.Pods, target) (reach.API, func() error, error)
	// execIn runs a command in a container. Tests replace it.
	execIn func(
		ctx context.Context, pods reach.Pods, pod *core.Pod, container string, command ...string,
	) (string, error)
	now func() time.Time
}

// Command is the plugin's command.
func Command(streams Streams) *cobra.Command {
	p := &plugin{
		Streams: streams, kube: genericclioptions.NewConfigFlags(true), now: time.Now,
		statusOf: openStatus,
		execIn: func(
			ctx context.Context, pods reach.Pods, pod *core.Pod, container string, command ...string,
		) (string, error) {
			return pods.Exec(ctx, pod, container, command...)
		},
	}
	p.connect = p.connectToCluster
	return p.root()
}

// Run runs the plugin with arguments that do not include its name. It returns the exit code.
func Run(ctx context.Context, args []string, streams Streams) int {
	root := Command(streams) //nolint:contextcheck // completion gets it from the command
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(streams.Err, "error:", output.Escape(err.Error()))
		return 1
	}
	return 0
}

func (p *plugin) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-hostpath",
		Short: "Look at the pools, the volumes and the trash of csi-hostpath, and find what is wrong",
		Long: "Look at the pools, the volumes and the trash of csi-hostpath, and find what is " +
			"wrong.\n\n" +
			"The plugin has the rights of your kubeconfig. What you may not see is said in a line.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Annotations: map[string]string{
			cobra.CommandDisplayNameAnnotation: "kubectl hostpath",
		},
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version.Version,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	flags := root.PersistentFlags()
	p.kube.AddFlags(flags)
	flags.StringVar(&p.driverNamespace, "driver-namespace", "",
		"namespace of the driver's pods; default: the one that is found")
	flags.StringVar(&p.driver, "driver", "", "name of the CSI driver, where there are several")
	root.AddCommand(
		p.poolsCommand(), p.volumesCommand(), p.gitCommand(), p.snapshotsCommand(), p.trashCommand(),
		p.topCommand(),
		p.doctorCommand(), p.logsCommand(), p.undeleteCommand(), p.dashboardCommand(),
		p.supportBundleCommand(),
	)
	return root
}

// connectToCluster makes the clients of the kubeconfig.
func (p *plugin) connectToCluster() (*objects.Reader, reach.Pods, error) {
	config, err := p.kube.ToRESTConfig()
	if err != nil {
		return nil, reach.Pods{}, err
	}
	config.QPS, config.Burst = clientQPS, clientBurst
	config.WarningHandler = rest.NoWarnings{}
	config.UserAgent = "kubectl-hostpath/" + version.Version
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, reach.Pods{}, err
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, reach.Pods{}, err
	}
	return &objects.Reader{Client: client, Dynamic: dyn}, reach.Pods{Config: config, Client: client},
		nil
}

// session is a command that runs: the clients, and the installation.
type session struct {
	*plugin
	*objects.Reader

	pods         reach.Pods
	installation *objects.Installation
}

// begin connects to the cluster and finds the installation.
func (p *plugin) begin(ctx context.Context) (*session, error) {
	reader, pods, err := p.connect()
	if err != nil {
		return nil, err
	}
	installation, err := reader.Find(ctx, p.driverNamespace, p.driver)
	if err != nil {
		return nil, err
	}
	return &session{p, reader, pods, installation}, nil
}

// namespace is the one that a command is about; "" is all.
func (p *plugin) namespace(all bool) (string, error) {
	if all {
		return "", nil
	}
	namespace, _, err := p.kube.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

// errNotVisible is for commands that need the driver's pods.
var errNotVisible = errors.New("the driver's pods were not found: you may not list daemonsets, " +
	"the driver is not installed, or it needs --driver-namespace")

// printing is the flags of commands that print lists.
type printing struct {
	format   string
	watch    bool
	interval time.Duration
}

func (o *printing) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&o.format, "output", "o", "", "output format: json, yaml, wide or name")
	flags.BoolVarP(&o.watch, "watch", "w", false, "look again and again, and print what has changed")
	flags.DurationVar(&o.interval, "interval", defaultInterval, "how often --watch looks")
	_ = cmd.RegisterFlagCompletionFunc("output",
		func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return output.Formats, cobra.ShellCompDirectiveNoFileComp
		})
}

// The times between two looks of --watch.
const (
	defaultInterval = 5 * time.Second
	leastInterval   = time.Second
)

// show prints what read returns, and with --watch what has changed, until the context ends. What
// the user may not see is said once, in a line each, apart from the list.
func (p *plugin) show(
	ctx context.Context, o printing, read func(context.Context) (output.List, []string, error),
) error {
	if err := output.Check(o.format); err != nil {
		return err
	}
	if o.watch && (o.format == output.JSON || o.format == output.YAML) {
		return fmt.Errorf("--watch prints tables and names, not %s", o.format)
	}
	said := map[string]bool{}
	var before output.List
	for {
		list, hints, err := read(ctx)
		if err != nil {
			return err
		}
		if shown := list.Changed(before); len(shown.Rows) > 0 || before.Kind == "" {
			if err := output.Print(p.Out, p.Err, o.format, shown); err != nil {
				return err
			}
		}
		p.sayOnce(said, hints)
		if before = list; !o.watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(o.interval, leastInterval)):
		}
	}
}

// showList begins a session, and shows what read returns of it.
func (p *plugin) showList(
	ctx context.Context, o printing,
	read func(context.Context, *session) (output.List, []string, error),
) error {
	s, err := p.begin(ctx)
	if err != nil {
		return err
	}
	return p.show(ctx, o, func(ctx context.Context) (output.List, []string, error) {
		return read(ctx, s)
	})
}

func (p *plugin) sayOnce(said map[string]bool, hints []string) {
	for _, hint := range hints {
		if !said[hint] {
			fmt.Fprintln(p.Err, "Not shown:", output.Escape(hint))
			said[hint] = true
		}
	}
}

// allNamespaces registers -A.
func allNamespaces(cmd *cobra.Command, all *bool) {
	cmd.Flags().BoolVarP(all, "all-namespaces", "A", false, "of all namespaces")
}
