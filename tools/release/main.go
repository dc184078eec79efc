// Program release makes the driver's image and its releases, from a checkout of the repository.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/tools/release/artifact"
	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
	"github.com/csi-hostpath/csi-hostpath/tools/release/oci"
	"github.com/csi-hostpath/csi-hostpath/tools/release/tracker"
)

// exitUnreachable tells hack/vulncheck that nothing was checked.
const exitUnreachable = 4

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		stop()
		// cobra has printed the error.
		if errors.Is(err, errUnreachable) {
			os.Exit(exitUnreachable)
		}
		os.Exit(1)
	}
}

// options are the flags of several commands.
type options struct {
	checkout string
	version  string
	cache    string
}

func command() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use: "release", Short: "Make the driver's image and its releases", SilenceUsage: true,
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&o.checkout, "checkout", ".", "root of the repository")
	flags.StringVar(&o.version, "version", "", "version to build")
	flags.StringVar(&o.cache, "cache", "", "folder of downloaded packages (default: .cache/debian)")
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error { return o.complete() }
	cmd.AddCommand(baseCommand(o), imageCommand(o), buildCommand(o), pushCommand(),
		vulnerabilitiesCommand(o), reachCommand())
	return cmd
}

func (o *options) complete() (err error) {
	if o.cache == "" {
		o.cache = filepath.Join(o.checkout, ".cache/debian")
	}
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	o.checkout, err = filepath.Abs(o.checkout)
	return err
}

func baseCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "base",
		Short: "Write deploy/image/base.lock.json: the newest packages of base.yaml",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder := filepath.Join(o.checkout, "deploy/image")
			description, err := debian.ReadDescription(filepath.Join(folder, "base.yaml"))
			if err != nil {
				return err
			}
			lock, err := debian.Update(cmd.Context(), description, time.Now())
			if err != nil {
				return err
			}
			return lock.Write(filepath.Join(folder, "base.lock.json"))
		},
	}
}

func imageCommand(o *options) *cobra.Command {
	var architecture, tag, output string
	cmd := &cobra.Command{
		Use:   "image --version VERSION --tag NAME --output OUT.tar",
		Short: "Write an archive of the image for one architecture, for docker, podman or containerd",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			source, err := artifact.NewSource(cmd.Context(), o.checkout, o.version)
			if err != nil {
				return err
			}
			base, err := source.NewBase(o.cache)
			if err != nil {
				return err
			}
			if base, err = base.OrNewest(cmd.Context(), architecture, logTo(cmd)); err != nil {
				return err
			}
			image, err := source.NewImage(cmd.Context(), base, architecture)
			if err != nil {
				return err
			}
			digest, err := image.Image.Digest()
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), digest)
			return oci.WriteArchive(output, tag, image.Image)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&architecture, "architecture", runtime.GOARCH, "amd64 or arm64")
	flags.StringVarP(&tag, "tag", "t", "", "full name of the image, with a tag")
	flags.StringVarP(&output, "output", "o", "", "archive to write")
	for _, name := range []string{"tag", "output"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	return cmd
}

func buildCommand(o *options) *cobra.Command {
	var release artifact.Release
	cmd := &cobra.Command{
		Use:   "build --version VERSION --helm HELM --output FOLDER",
		Short: "Make a release: images, chart, kubectl plugin, SBOMs, notes, provenance, checksums",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			release.Source, err = artifact.NewSource(cmd.Context(), o.checkout, o.version)
			if err != nil {
				return err
			}
			if release.Base, err = release.Source.NewBase(o.cache); err != nil {
				return err
			}
			release.Log = logTo(cmd)
			if err := release.Write(cmd.Context()); err != nil {
				return err
			}
			for _, subject := range release.Subjects() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", subject.SHA256, subject.Name)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&release.Helm, "helm", "helm", "Helm's program")
	flags.StringVarP(&release.Folder, "output", "o", "", "folder to make")
	flags.StringVar(&release.Builder.Repository, "image-repository", "",
		"image that the chart asks for (default: localhost/csi-hostpath)")
	flags.StringVar(&release.Builder.ID, "builder", artifact.Home+"/blob/main/docs/releases.md",
		"address that says who builds, for the provenance")
	flags.StringVar(&release.Builder.Invocation, "invocation", "",
		"address of this run, for the provenance")
	cobra.CheckErr(cmd.MarkFlagRequired("output"))
	return cmd
}

// logTo prints lines where a command's errors go.
func logTo(cmd *cobra.Command) func(format string, args ...any) {
	return func(format string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), "release: "+format+"\n", args...)
	}
}

func pushCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "push LAYOUT REPOSITORY",
		Short: "Push an OCI layout of a release, and print the reference by digest",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			reference, err := oci.Push(cmd.Context(), args[0], args[1])
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), reference)
			}
			return err
		},
	}
}

var (
	errUnreachable = errors.New("Debian's security tracker cannot be read")
	errVulnerable  = errors.New("packages of the base layer have fixes: run make base")
)

func vulnerabilitiesCommand(o *options) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "vulnerabilities",
		Short: "Ask Debian's security tracker about the base layer; fail where a fix is out",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lock, err := debian.ReadLock(filepath.Join(o.checkout, "deploy/image/base.lock.json"))
			if err != nil {
				return err
			}
			data, err := trackerData(cmd.Context(), file)
			if err != nil {
				return fmt.Errorf("%w: %w", errUnreachable, err)
			}
			findings, err := tracker.Check(cmd.Context(), data, lock)
			if err != nil {
				return err
			}
			vulnerable := false
			for _, finding := range findings {
				fmt.Fprintln(cmd.OutOrStdout(), finding)
				vulnerable = vulnerable || finding.Fixed != ""
			}
			if vulnerable {
				return errVulnerable
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "data", "", "file of "+tracker.URL+" (default: download it)")
	return cmd
}

// reachCommand lets hack/vulncheck ask before it starts govulncheck, which waits without a limit.
func reachCommand() *cobra.Command {
	return &cobra.Command{
		Use:           "reach URL",
		Short:         "Fail if a server does not answer within 20 s, and print why",
		Args:          cobra.ExactArgs(1),
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := tracker.Reach(cmd.Context(), args[0])
			if err != nil {
				fmt.Fprintln(cmd.OutOrStdout(), err)
			}
			return err
		},
	}
}

func trackerData(ctx context.Context, path string) (tracker.Data, error) {
	if path == "" {
		return tracker.Download(ctx)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return tracker.Read(file)
}
