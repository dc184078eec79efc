package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

func (p program) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the driver until SIGTERM or SIGINT; a second one ends it at once",
		Args:  cobra.NoArgs,
	}
	o := addOptions(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.logging.Apply(p.stderr); err != nil {
			return err
		}
		config, err := o.driver.Load()
		if err != nil {
			return err
		}
		defer klog.Flush()
		ctx, stop := untilSignal(cmd.Context())
		defer stop()
		if err := p.serve(ctx, config); err != nil {
			return serveError{err}
		}
		return nil
	}
	return cmd
}

// untilSignal is a context that ends with the first SIGTERM or SIGINT. The second ends the process: whoever sends it
// has waited long enough, and kill -9 at any moment is safe. stop gives the signals back and waits for the watcher.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithCancelCause(parent)
	signals, stopped, done := make(chan os.Signal, 2), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		defer close(done)
		for count := 1; ; count++ {
			select {
			case <-stopped:
				return
			case got := <-signals:
				if count > 1 {
					klog.FromContext(ctx).Info("Exiting at once on a second signal", "signal", got.String())
					klog.Flush()
					os.Exit(exitFailure)
				}
				klog.FromContext(ctx).Info("Stopping; a second signal exits at once", "signal", got.String())
				cancel(fmt.Errorf("received signal: %v", got))
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(stopped)
		<-done
		cancel(nil)
	}
}
