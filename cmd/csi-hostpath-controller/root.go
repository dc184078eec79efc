package main

import (
	"context"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
)

func rootCommand() *cobra.Command {
	root := command.Root("csi-hostpath-controller",
		"The controller of a cluster whose nodes run csi-hostpath", "serve, place, or --help")
	root.AddCommand(serveCommand(), placeCommand())
	return root
}

// running makes a command that runs until a signal. add adds its flags, and validate says what is
// wrong with them: all of it.
func running(
	cmd *cobra.Command, validate func() error, run func(ctx context.Context) error,
) *cobra.Command {
	logging := command.NewLoggingFlags()
	logging.Register(cmd.Flags())
	command.AddVersion(cmd)
	cmd.Args = command.NoArguments
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := logging.Apply(cmd.ErrOrStderr()); err != nil {
			return err
		}
		if err := validate(); err != nil {
			return err
		}
		defer klog.Flush()
		command.KeepWithinMemory()
		ctx, stop := command.UntilSignal(cmd.Context())
		defer stop()
		if err := run(ctx); err != nil {
			return command.RunError{Err: err}
		}
		return nil
	}
	return cmd
}
