package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// KubectlCommand returns a command that runs the cluster's kubectl with all
// rights, for callers that want its streams.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.folder.programs(), "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.folder.kubeconfig())
	return cmd
}

// Kubectl runs kubectl and returns its standard output; the error holds what it
// wrote to standard error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlInput(ctx, nil, args...)
}

// Apply applies manifests.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	_, err := c.KubectlInput(ctx, strings.NewReader(manifests), "apply", "--filename=-")
	return err
}

// KubectlInput is Kubectl with a standard input.
func (c *Cluster) KubectlInput(
	ctx context.Context, stdin io.Reader, args ...string,
) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := c.KubectlCommand(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err,
			strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
