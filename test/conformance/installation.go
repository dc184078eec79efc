package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const (
	namespace = "csi-hostpath"
	chart     = "deploy/helm/csi-hostpath"
	image     = "localhost/csi-hostpath:conformance"
	// diskSize is in bytes. The files are sparse, and some suites claim many GiB without use.
	diskSize = 100 << 30
)

// setUp starts a cluster of three nodes, each with a disk of another filesystem, and installs the
// chart. After an error, the cluster, if not nil, is still to be taken down.
func setUp(ctx context.Context, o options) (*cluster.Cluster, error) {
	say := progress()
	c, err := cluster.Start(ctx, cluster.Options{
		Name: o.name, Nodes: 3, DiskSize: diskSize, Kubernetes: o.kubernetes, Progress: say,
	})
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return c, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	if o.image == "" {
		o.image = filepath.Join(folder, "image.tar")
		say("building the image")
		cmd := exec.CommandContext(ctx, "hack/release", "image", "--version", "conformance",
			"--tag", image, "--output", o.image)
		cmd.Stderr = os.Stderr // also for its warnings
		if err := cmd.Run(); err != nil {
			return c, fmt.Errorf("%s: %w", cmd, err)
		}
	}
	if err := c.Load(ctx, o.image); err != nil {
		return c, err
	}
	say("installing the chart")
	return c, install(ctx, c, o.helm)
}

func install(ctx context.Context, c *cluster.Cluster, helm string) error {
	_, err := c.Kubectl(ctx, "get", "namespace", namespace)
	if err != nil {
		if _, err := c.Kubectl(ctx, "create", "namespace", namespace); err != nil {
			return err
		}
	}
	if _, err := c.Kubectl(ctx, "label", "--overwrite", "namespace", namespace,
		"pod-security.kubernetes.io/enforce=privileged"); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, helm, "upgrade", "--install", "csi-hostpath", chart,
		"--namespace", namespace, "--values", "test/conformance/values.yaml", "--wait", "--timeout=5m",
		// The nodes share a machine, so the groups of their pods have different names.
		"--set", "config.ioLimits.podsGroup="+c.CGroup())
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("helm: %w\n%s", err, out)
	}
	return nil
}
