package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

func nodeCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Do something to one node (N is its number or its name)"}
	cmd.AddCommand(
		onNode(name, "restart N", "Restart the kubelet, as its service manager would",
			func(ctx context.Context, n *cluster.Node) error {
				return errors.Join(n.Restart(ctx), n.WaitReady(ctx))
			}),
		onNode(name, "reboot N", "Cut the power and boot again; the disks stay",
			func(ctx context.Context, n *cluster.Node) error { return n.Reboot(ctx) }),
		onNode(name, "stop N", "Cut the power",
			func(ctx context.Context, n *cluster.Node) error { return n.Stop(ctx) }),
		onNode(name, "start N", "Boot a stopped node",
			func(ctx context.Context, n *cluster.Node) error { return n.Start(ctx) }),
		nodeExecCommand(name),
	)
	return cmd
}

// onNode makes a command that does one thing to the node it is given.
func onNode(
	name *string, use, short string, do func(context.Context, *cluster.Node) error,
) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := findNode(*name, args[0])
			if err != nil {
				return err
			}
			return do(cmd.Context(), n)
		},
	}
}

func nodeExecCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec N -- COMMAND...",
		Short: "Run a command in the node's namespaces",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := findNode(*name, args[0])
			if err != nil {
				return err
			}
			args = args[1:]
			if args[0] == "--" {
				args = args[1:]
			}
			command, err := n.Command(cmd.Context(), args...)
			if err != nil {
				return err
			}
			return attach(command).Run()
		},
	}
	// Flags after the node are the command's.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func attach(command *exec.Cmd) *exec.Cmd {
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	return command
}

func findNode(name, node string) (*cluster.Node, error) {
	c, err := cluster.Attach(name)
	if err != nil {
		return nil, err
	}
	if index, err := strconv.Atoi(strings.TrimPrefix(node, "node-")); err == nil {
		return c.Node(index)
	}
	return c.NodeNamed(node)
}
