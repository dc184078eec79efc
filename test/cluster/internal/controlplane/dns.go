package controlplane

import (
	_ "embed"
	"os"
	"strings"
	"text/template"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/network"
)

const corefilePath = machine.Home + "/Corefile"

//go:embed Corefile
var corefile string

// Configure writes the configuration of the machine's programs into its folder.
func Configure(layout machine.Layout) error {
	parsed, err := template.New("Corefile").Parse(corefile)
	if err != nil {
		return err
	}
	var content strings.Builder
	err = parsed.Execute(&content, map[string]string{
		"Domain":     network.Domain,
		"Kubeconfig": kubeconfig("admin"),
	})
	if err != nil {
		return err
	}
	return os.WriteFile(layout.Host(corefilePath), []byte(content.String()), 0o644)
}

func dnsFlags() []string { return []string{"-conf=" + corefilePath} }
