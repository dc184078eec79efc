// Cluster runs a real Kubernetes on this machine for csi-hostpath's tests and
// for trying it: go run ./test/cluster --help.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := rootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "cluster",
		Short:         "A real Kubernetes on this machine, without a container engine or a registry",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("name", cluster.DefaultedName(""),
		"name of the cluster, when there are several ($"+cluster.NameVariable+")")
	root.AddCommand(
		upCommand(name), downCommand(name), loadCommand(name), kubectlCommand(name),
		nodeCommand(name), logsCommand(name), envCommand(name), imageCommand(),
	)
	return root
}

// progress prints a step with the time since the program began.
func progress() func(format string, args ...any) {
	began := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}

func upCommand(name *string) *cobra.Command {
	var options cluster.Options
	var diskGiB int64
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster; what an interrupted start left is removed first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options.Name = *name
			options.DiskSize = diskGiB << 30
			options.Progress = progress()
			c, err := cluster.Start(cmd.Context(), options)
			if err != nil {
				return err
			}
			options.Progress("ready; try: go run ./test/cluster kubectl get nodes")
			printEnv(cmd, c)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&options.Nodes, "nodes", cluster.DefaultNodes, "number of nodes")
	flags.StringVar(&options.Disks, "disk", cluster.DefaultDisks,
		"filesystem of each node's disk: ext4, xfs or btrfs, separated by commas")
	flags.Int64Var(&diskGiB, "disk-size", cluster.DefaultDiskSize>>30,
		"size of each node's disk in GiB (a sparse file)")
	flags.StringVar(&options.DiskPath, "disk-path", cluster.DefaultDiskPath,
		"where each node mounts its disk")
	flags.StringVar(&options.KubeletDir, "kubelet-dir", cluster.DefaultKubeletDir,
		"kubelet's root directory on each node")
	flags.BoolVar(&options.ReadOnlyRoot, "read-only-root", false,
		"make each node's root filesystem read-only; /var/lib, /var/log, /run, /srv, /mnt, /tmp stay")
	flags.StringVar(&options.Kubernetes, "kubernetes", cluster.DefaultedKubernetes(""),
		"version of Kubernetes: "+strings.Join(cluster.KubernetesVersions(), " or ")+
			" ($"+cluster.KubernetesVariable+")")
	flags.StringVar(&options.FeatureGates, "feature-gates", "",
		"feature gates of Kubernetes, NAME=true or NAME=false, separated by commas")
	flags.StringVar(
		&options.Cache,
		"cache",
		"",
		"folder that keeps built programs and images (default: csi-hostpath-cluster in the user's cache folder; $"+cluster.CacheVariable+")",
	)
	return cmd
}

func downCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the cluster and remove all of it but the cache",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cluster.Down(cmd.Context(), *name, progress())
		},
	}
}

func loadCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "load IMAGE.tar...",
		Short: "Load image archives into every node",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, archives []string) error {
			c, err := cluster.Attach(*name)
			if err != nil {
				return err
			}
			for _, archive := range archives {
				if err := c.Load(cmd.Context(), archive); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func kubectlCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl ARGS...",
		Short: "Run the cluster's kubectl with all rights",
		// Every flag after the word is kubectl's.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen, args := cutName(*name, args)
			c, err := cluster.Attach(chosen)
			if err != nil {
				return err
			}
			kubectl := c.KubectlCommand(cmd.Context(), args...)
			kubectl.Stdin, kubectl.Stdout, kubectl.Stderr = os.Stdin, os.Stdout, os.Stderr
			return kubectl.Run()
		},
	}
}

// cutName takes our own --name off arguments that are kubectl's otherwise: cobra, which does not
// read them, leaves in what stood before the word kubectl.
func cutName(name string, args []string) (string, []string) {
	switch {
	case len(args) > 1 && args[0] == "--name":
		return args[1], args[2:]
	case len(args) > 0 && strings.HasPrefix(args[0], "--name="):
		return strings.TrimPrefix(args[0], "--name="), args[1:]
	default:
		return name, args
	}
}

func logsCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "logs DIR",
		Short: "Collect every component's log, and what Kubernetes says of itself",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return cluster.CollectLogs(cmd.Context(), *name, args[0])
		},
	}
}

func envCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: `Print settings for a shell: eval "$(go run ./test/cluster env)"`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Attach(*name)
			if err != nil {
				return err
			}
			printEnv(cmd, c)
			return nil
		},
	}
}

func printEnv(cmd *cobra.Command, c *cluster.Cluster) {
	out := cmd.OutOrStdout()
	_, _ = fmt.Fprintf(out, "export KUBECONFIG=%s\n", c.Kubeconfig())
	_, _ = fmt.Fprintf(out, "export PATH=%s:$PATH\n", c.Programs())
	_, _ = fmt.Fprintf(out, "export %s=%s\n", cluster.NameVariable, c.Name())
}
