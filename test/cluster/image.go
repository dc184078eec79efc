package main

import (
	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Make image archives without a registry"}
	cmd.AddCommand(imagePackCommand(), imageBuildCommand())
	return cmd
}

func imagePackCommand() *cobra.Command {
	var config cluster.ImageConfig
	var output string
	cmd := &cobra.Command{
		Use:   "pack -t NAME -o OUT.tar PROGRAM|ROOTFS",
		Short: "Pack a static program, or a folder that is a root filesystem",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return cluster.PackImage(output, config, args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&config.Name, "tag", "t", "", "full name of the image, with a tag")
	flags.StringVarP(&output, "output", "o", "", "archive to write")
	flags.StringSliceVar(&config.Entrypoint, "entrypoint", nil,
		"entrypoint, separated by commas (default: the program)")
	flags.StringSliceVar(&config.Cmd, "cmd", nil, "default arguments, separated by commas")
	flags.StringSliceVar(&config.Env, "env", nil, "environment: NAME=VALUE")
	flags.StringVar(&config.User, "user", "", "numeric uid[:gid] (default: root)")
	for _, name := range []string{"tag", "output"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	return cmd
}

func imageBuildCommand() *cobra.Command {
	var build cluster.ImageBuild
	cmd := &cobra.Command{
		Use:   "build -f Dockerfile -t NAME -o OUT.tar CONTEXT",
		Short: "Build a Dockerfile; base images (debian, golang) are made here",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			build.Context = args[0]
			build.Progress = progress()
			build.Log = cmd.ErrOrStderr()
			return cluster.BuildImage(cmd.Context(), build)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&build.Dockerfile, "file", "f", "Dockerfile", "Dockerfile to build")
	flags.StringVarP(&build.Name, "tag", "t", "", "full name of the image, with a tag")
	flags.StringVarP(&build.Output, "output", "o", "", "archive to write")
	flags.StringArrayVar(&build.Args, "build-arg", nil, "build argument: NAME=VALUE")
	flags.StringVar(&build.Cache, "cache", "", "folder that keeps base images (as for up)")
	for _, name := range []string{"tag", "output"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	return cmd
}
