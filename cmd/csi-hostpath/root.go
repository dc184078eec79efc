package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/config"
)

// program is the command and what it needs from its process.
type program struct {
	serve          func(context.Context, config.Config) error
	stdout, stderr io.Writer
}

// run runs the command with arguments that do not include its name. It returns the exit code.
func (p program) run(args []string) int {
	return command.Run(p.rootCommand(), args, p.stdout, p.stderr)
}

func (p program) rootCommand() *cobra.Command {
	root := command.Root("csi-hostpath",
		"A CSI driver that turns a node's own directories into real Kubernetes volumes",
		"serve, check, check-config, repair, recharge, undelete, or --help")
	root.AddCommand(p.serveCommand(), checkConfigCommand(), checkCommand(), repairCommand(),
		rechargeCommand(), undeleteCommand())
	return root
}

// options are the flags of serve, check and check-config. All have the same, so that the arguments
// of a DaemonSet can be checked unchanged.
type options struct {
	driver  *config.Flags
	logging *command.LoggingFlags
}

func addOptions(cmd *cobra.Command) options {
	o := options{config.NewFlags(), command.NewLoggingFlags()}
	o.driver.Register(cmd.Flags())
	o.logging.Register(cmd.Flags())
	command.AddVersion(cmd)
	return o
}
