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

// installation is a cluster with the chart.
type installation struct {
	cluster *cluster.Cluster
	helm    string
}

// setUp starts a cluster of three nodes and installs the chart. After an error, what it returns, if
// not nil, is still to be taken down.
func setUp(ctx context.Context, o options, suite cluster.Suite) (*installation, error) {
	say := progress()
	c, err := cluster.Start(ctx, cluster.Options{
		Name: o.name, Nodes: 3, Disks: o.disk, DiskSize: diskSize, Kubernetes: o.kubernetes,
		Progress: say,
	})
	if err != nil {
		return nil, err
	}
	in := &installation{cluster: c, helm: o.helm}
	folder, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return in, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	if err := c.LoadSuiteImages(ctx, suite); err != nil {
		return in, err
	}
	if o.image == "" {
		o.image = filepath.Join(folder, "image.tar")
		say("building the image")
		cmd := exec.CommandContext(ctx, "hack/release", "image", "--version", "conformance",
			"--tag", image, "--output", o.image)
		cmd.Stderr = os.Stderr // also for its warnings
		if err := cmd.Run(); err != nil {
			return in, fmt.Errorf("%s: %w", cmd, err)
		}
	}
	if err := c.Load(ctx, o.image); err != nil {
		return in, err
	}
	say("installing the chart")
	return in, in.install(ctx)
}

func (in *installation) install(ctx context.Context) error {
	_, err := in.cluster.Kubectl(ctx, "get", "namespace", namespace)
	if err != nil {
		if _, err := in.cluster.Kubectl(ctx, "create", "namespace", namespace); err != nil {
			return err
		}
	}
	if _, err := in.cluster.Kubectl(ctx, "label", "--overwrite", "namespace", namespace,
		"pod-security.kubernetes.io/enforce=privileged"); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, in.helm, "upgrade", "--install", "csi-hostpath", chart,
		"--namespace", namespace, "--values", "test/conformance/values.yaml", "--wait", "--timeout=5m",
		// The nodes share a machine, so the groups of their pods have different names.
		"--set", "config.ioLimits.podsGroup="+in.cluster.CGroup())
	cmd.Env = append(os.Environ(), "KUBECONFIG="+in.cluster.Kubeconfig())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("helm: %w\n%s", err, out)
	}
	_, err = in.cluster.Kubectl(ctx, "apply", "-f", "test/conformance/classes.yaml")
	return err
}

func (in *installation) down(ctx context.Context) error {
	return cluster.Down(ctx, in.cluster.Name(), progress())
}
