package command

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"
)

// UntilSignal is a context that ends with the first SIGTERM or SIGINT. The second signal ends the
// process at once, which is safe at any moment. The returned function restores the signals and
// waits for the watcher.
func UntilSignal(parent context.Context) (context.Context, func()) {
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
			os.Exit(ExitFailure)
		}
		first = false
		logger.Info("Stopping; a second signal exits at once", "signal", got.String())
		cancel(fmt.Errorf("received signal: %v", got))
	}
}
