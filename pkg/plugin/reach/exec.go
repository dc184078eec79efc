package reach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// Exec runs a command in a container of a pod and returns its output. Errors: what the command
// says, if it fails; those of the API server, which may be Forbidden.
func (p Pods) Exec(
	ctx context.Context, pod *core.Pod, container string, command ...string,
) (string, error) {
	target := p.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).
		Name(pod.Name).SubResource("exec").
		VersionedParams(&core.PodExecOptions{
			Container: container, Command: command, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	second, err := remotecommand.NewSPDYExecutor(p.Config, http.MethodPost, target)
	if err != nil {
		return "", err
	}
	first, err := remotecommand.NewWebSocketExecutor(p.Config, http.MethodGet, target.String())
	if err != nil {
		return "", err
	}
	executor, err := remotecommand.NewFallbackExecutor(first, second, isRefusedUpgrade)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{
		Stdout: &stdout, Stderr: &stderr,
	})
	switch said := strings.TrimSpace(stderr.String()); {
	case err != nil && said != "":
		return "", errors.New(said)
	case err != nil:
		return "", fmt.Errorf("run %s in pod %s/%s: %w", command[0], pod.Namespace, pod.Name, err)
	}
	return stdout.String(), nil
}
