package pki

import (
	"encoding/base64"
	"fmt"
	"os"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: cluster
contexts:
- name: cluster
  context: {cluster: cluster, user: user}
clusters:
- name: cluster
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: user
  user:
    client-certificate-data: %s
    client-key-data: %s
`

// Kubeconfig writes a self-contained kubeconfig that uses the pair issued as name.
func (a *Authority) Kubeconfig(path, server, name string) error {
	var encoded []any
	for _, file := range []string{a.Certificate("ca"), a.Certificate(name), a.Key(name)} {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("kubeconfig of %s: %w", name, err)
		}
		encoded = append(encoded, base64.StdEncoding.EncodeToString(data))
	}
	content := fmt.Sprintf(kubeconfig, append([]any{server}, encoded...)...)
	return os.WriteFile(path, []byte(content), 0o600)
}
