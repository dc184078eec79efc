package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/pki"
)

// configured returns a node with all of its files.
func configured(t *testing.T) Node {
	t.Helper()
	authority, err := pki.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue("kube-proxy", pki.Subject{CommonName: "system:kube-proxy"}); err != nil {
		t.Fatal(err)
	}
	if err := authority.Kubeconfig(
		authority.KubeconfigPath("kube-proxy"),
		"https://10.96.0.1",
		"kube-proxy",
	); err != nil {
		t.Fatal(err)
	}
	n := Node{
		Index:      2,
		Layout:     machine.Layout(t.TempDir()),
		CGroup:     "test/node-2",
		DiskTarget: "/var/lib/data",
		KubeletDir: "/srv/kubelet",
	}
	if err := n.Layout.Create(); err != nil {
		t.Fatal(err)
	}
	if err := n.Configure(authority); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestConfigurationIsWellFormed(t *testing.T) {
	n := configured(t)
	home := n.Layout.Host(machine.Home)
	parsers := map[string]func([]byte, any) error{
		"kubelet.yaml":           yaml.Unmarshal,
		"kube-proxy.yaml":        yaml.Unmarshal,
		"cni/10-bridge.conflist": json.Unmarshal,
	}
	for name, parse := range parsers {
		data, err := os.ReadFile(filepath.Join(home, name))
		if err != nil {
			t.Fatal(err)
		}
		var parsed map[string]any
		if err := parse(data, &parsed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	containerd, err := os.ReadFile(filepath.Join(home, "containerd.toml"))
	if err != nil || !strings.Contains(string(containerd), PauseImage) ||
		strings.Contains(string(containerd), "<no value>") {
		t.Errorf("containerd.toml: %v\n%s", err, containerd)
	}
}

func TestUnitsNameFilesThatExist(t *testing.T) {
	n := configured(t)
	for _, unit := range n.Spec("/programs").Units {
		for _, arg := range unit.Args {
			_, value, found := strings.Cut(arg, "=")
			if !found || !strings.HasPrefix(value, machine.Home) {
				continue
			}
			if _, err := os.Stat(n.Layout.Host(value)); err != nil {
				t.Errorf("%s: %v", unit.Name, err)
			}
		}
	}
}
