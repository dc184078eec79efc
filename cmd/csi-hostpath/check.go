package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/driver"
)

func checkConfigCommand() *cobra.Command {
	return configCommand(cobra.Command{
		Use:   "check-config",
		Short: "Check a configuration and report every fault; takes the flags of serve and changes nothing",
	}, func(*cobra.Command, config.Config) error { return nil })
}

// checkName is the command that asks filesystems which may not answer.
const checkName = "check"

func checkCommand() *cobra.Command {
	return configCommand(cobra.Command{
		Use: checkName,
		Short: "Check a configuration, and this node: kubelet's directory and the pools' disks; takes the " +
			"flags of serve and changes nothing",
	}, checkNode)
}

// configCommand makes a command that loads and describes the configuration before it runs.
func configCommand(
	template cobra.Command, run func(*cobra.Command, config.Config) error,
) *cobra.Command {
	cmd := &template
	cmd.Args = command.NoArguments
	o := addOptions(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.logging.Apply(cmd.ErrOrStderr()); err != nil {
			return err
		}
		cfg, err := o.driver.Load()
		if err != nil {
			return err
		}
		describe(cmd, cfg)
		return run(cmd, cfg)
	}
	return cmd
}

// checkNode prints what driver.Inspect finds. The faults are the error.
func checkNode(cmd *cobra.Command, c config.Config) error {
	notes, faults := driver.Inspect(cmd.Context(), c)
	for _, note := range notes {
		fmt.Fprintln(cmd.OutOrStdout(), "Note:", note)
	}
	if len(faults) > 0 {
		return command.RunError{Err: errors.Join(faults...)}
	}
	fmt.Fprintln(cmd.OutOrStdout(), "The node is fit for volumes.")
	return nil
}

// describe prints the configuration with all defaults.
func describe(cmd *cobra.Command, c config.Config) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "The configuration is valid: %s on node %s, %d pools.\n", c.DriverName,
		c.NodeName, len(c.Pools))
	for _, p := range c.Pools {
		mark := ""
		if p.Default {
			mark = ", the default"
		}
		fmt.Fprintf(
			out,
			"pool %s%s: %s, overcommit %v, reserve %d bytes, quota %s, optional %v, requireMountpoint %v, "+
				"allowMultiNode %v, trashRetention %v, maxCopies %d, copyBytesPerSecond %d, "+
				"maxSnapshotsPerVolume %d\n",
			p.Name,
			mark,
			p.Path,
			p.Overcommit,
			p.Reserve,
			p.Quota,
			p.Optional,
			p.RequireMountpoint,
			p.AllowMultiNode,
			p.TrashRetention,
			p.MaxCopies,
			p.CopyBytesPerSecond,
			p.MaxSnapshotsPerVolume,
		)
	}
	for _, h := range c.HostPaths {
		readOnly := ""
		if h.ReadOnly {
			readOnly = ", read-only"
		}
		fmt.Fprintf(out, "host path %s%s: types %s, namespaces %s, inline %v\n",
			h.Path, readOnly, listed(h.Types, "all but devices"), listed(h.Namespaces, "all"), h.Inline)
	}
	for _, g := range c.GitSources {
		fmt.Fprintf(out, "git source %s: namespaces %s, maxSize %d bytes, minPeriod %v, addresses %s\n",
			g.URLPrefix, listed(g.Namespaces, "all"), g.MaxSize, g.MinPeriod, listed(g.Addresses, "none"))
	}
}

// listed joins a list. none is what an empty list means.
func listed(list []string, none string) string { return cmp.Or(strings.Join(list, " "), none) }
