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
		Args:  noArguments,
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
		keepWithinMemory()
		ctx, stop := untilSignal(cmd.Context())
		defer stop()
		if err := p.serve(ctx, cfg); err != nil {
			return serveError{err}
		}
		return nil
	}
	return cmd
}

// untilSignal is a context that ends with the first SIGTERM or SIGINT. The second signal ends the
// process at once, which is safe at any moment. The returned function restores the signals and
// waits for the watcher.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals, done := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		defer close(done)
		watch(klog.FromContext(parent), signals, cancel)
	}()
	return ctx, func() {
		signal.Stop(signals) // returns when no more signals will be sent
		close(signals)
		<-done
		cancel(nil)
	}
}

// watch acts on signals until their channel is closed.
func watch(logger klog.Logger, signals <-chan os.Signal, cancel context.CancelCauseFunc) {
	first := true
	for got := range signals {
		if !first {
			logger.Info("Exiting at once on a second signal", "signal", got.String())
			klog.Flush()
			os.Exit(exitFailure)
		}
		first = false
		logger.Info("Stopping; a second signal exits at once", "signal", got.String())
		cancel(fmt.Errorf("received signal: %v", got))
	}
}
