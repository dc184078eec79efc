// Package command is what the command lines of the programs have in common: exit codes, errors of
// flags, the version, the log, and signals.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// Exit codes.
const (
	ExitOK      = 0
	ExitFailure = 1 // the program failed
	ExitUsage   = 2 // the command line or the configuration is wrong: the same call will fail again
)

// RunError is a failure of the program itself. Every other error that a command returns is one of
// usage.
type RunError struct{ Err error }

// Error implements error.
func (e RunError) Error() string { return e.Err.Error() }

// Unwrap is for errors.Is.
func (e RunError) Unwrap() error { return e.Err }

// Root is a command without a task of its own: its subcommands have them. commands is what to say
// when none is given, because a container without arguments must not look like one that succeeded.
func Root(use, short, commands string) *cobra.Command {
	root := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("give a command: " + commands)
		},
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	AddVersion(root)
	root.SetFlagErrorFunc(FlagError)
	return root
}

// Run runs the command with arguments that do not include its name. Each line of an error begins
// with the program's name. It returns the exit code.
func Run(root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return ExitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(stderr, root.Name()+":", strings.TrimSuffix(line, "\n"))
	}
	if failure := (RunError{}); errors.As(err, &failure) {
		return ExitFailure
	}
	return ExitUsage
}

// NoArguments replaces cobra's own check, whose message is "unknown command".
func NoArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, only flags: %q", cmd.Name(), args)
	}
	return nil
}

// AddVersion gives a command --version. cobra's own flag would take -v, which is the log's.
func AddVersion(cmd *cobra.Command) {
	cmd.Version = version.Version
	cmd.SetVersionTemplate("{{.Version}}\n")
	cmd.Flags().Bool("version", false, "print the version and exit")
}
