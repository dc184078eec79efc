package main

import (
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
)

func (p program) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the driver until SIGTERM or SIGINT; a second one ends it at once",
		Args:  command.NoArguments,
	}
	o := addOptions(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.logging.Apply(p.stderr); err != nil {
			return err
		}
		cfg, err := o.driver.Load()
		if err != nil {
			return err
		}
		defer klog.Flush()
		spareProcessors()
		collectLessOften()
		command.KeepWithinMemory()
		ctx, stop := command.UntilSignal(cmd.Context())
		defer stop()
		if err := p.serve(ctx, cfg); err != nil {
			return command.RunError{Err: err}
		}
		return nil
	}
	return cmd
}
