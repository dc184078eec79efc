package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/driver"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // the driver failed
	exitUsage   = 2 // the command line or the configuration is wrong: the same call will fail again
)

// program is the command and what it needs from its process.
type program struct {
	serve          func(context.Context, config.Config) error
	stdout, stderr io.Writer
}

// serveError is a failure of the driver itself; every other error is one of usage.
type serveError struct{ error }

func (e serveError) Unwrap() error { return e.error }

// run runs the command with arguments that do not include its name. It returns the exit code.
func (p program) run(args []string) int {
	root := p.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return exitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(p.stderr, "csi-hostpath:", strings.TrimSuffix(line, "\n"))
	}
	if failure := (serveError{}); errors.As(err, &failure) {
		return exitFailure
	}
	return exitUsage
}

func (p program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:               "csi-hostpath",
		Short:             "A CSI driver that turns a node's own directories into real Kubernetes volumes",
		Args:              cobra.NoArgs,
		RunE:              needCommand,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	addVersion(root)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(p.serveCommand(), checkConfigCommand(), checkCommand(), repairCommand(),
		rechargeCommand())
	return root
}

// noArguments replaces cobra's own check, whose message is "unknown command".
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, only flags: %q", cmd.Name(), args)
	}
	return nil
}

// needCommand fails, because a container without arguments must not look like one that succeeded.
func needCommand(*cobra.Command, []string) error {
	return errors.New("give a command: serve, check, check-config, repair, recharge, or --help")
}

// addVersion gives a command --version. cobra's own flag would take -v, which is the log's.
func addVersion(cmd *cobra.Command) {
	cmd.Version = driver.Version
	cmd.SetVersionTemplate("{{.Version}}\n")
	cmd.Flags().Bool("version", false, "print the version and exit")
}

// options are the flags of serve, check and check-config. All have the same, so that the arguments
// of a DaemonSet can be checked unchanged.
type options struct {
	driver  *config.Flags
	logging *driver.LoggingFlags
}

func addOptions(cmd *cobra.Command) options {
	o := options{config.NewFlags(), driver.NewLoggingFlags()}
	o.driver.Register(cmd.Flags())
	o.logging.Register(cmd.Flags())
	addVersion(cmd)
	return o
}
