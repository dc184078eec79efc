// Package node describes the machines that pods run on.
package node

import (
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/gates"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/network"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/pki"
)

// PauseImage is the pod sandbox image that containerd is told to use.
const PauseImage = "registry.k8s.io/pause:3.10.2"

// ContainerdSocket is containerd's address inside a node.
const ContainerdSocket = "/run/containerd/containerd.sock"

// diskImage lies where the node itself can mount it from.
const diskImage = machine.Home + "/disk.img"

// DefaultKubeletDir is kubelet's own default of --root-dir.
const DefaultKubeletDir = "/var/lib/kubelet"

//go:embed config/*
var templates embed.FS

// Node is one node of a cluster.
type Node struct {
	// Index starts at 1.
	Index  int
	Layout machine.Layout
	// CGroup is the node's group; pods and system programs are below it.
	CGroup string
	// DiskTarget is where the disk is mounted inside the node.
	DiskTarget string
	// KubeletDir is kubelet's root directory inside the node.
	KubeletDir string
	// ReadOnlyRoot leaves only the private directories, /run and /dev writable.
	ReadOnlyRoot bool
	// Features are kubelet's feature gates.
	Features gates.Gates
}

// Name returns the name of the node with an index.
func Name(index int) string { return "node-" + strconv.Itoa(index) }

// Name is the Kubernetes name and the host name.
func (n Node) Name() string { return Name(n.Index) }

// DiskImage is where the host has the disk's image file.
func (n Node) DiskImage() string { return n.Layout.Host(diskImage) }

// Configure writes the node's configuration files, certificate and kubeconfigs.
func (n Node) Configure(authority *pki.Authority) error {
	subject := pki.Subject{
		CommonName: "system:node:" + n.Name(), Organization: "system:nodes",
		Names: []string{n.Name()}, IPs: []net.IP{network.NodeIP(n.Index)},
	}
	if err := authority.Issue(n.Name(), subject); err != nil {
		return err
	}
	server := "https://" + net.JoinHostPort(network.APIServerIP.String(), "443")
	copies := map[string]string{
		authority.Certificate("ca"):            "ca.crt",
		authority.Certificate(n.Name()):        "node.crt",
		authority.Key(n.Name()):                "node.key",
		authority.KubeconfigPath("kube-proxy"): "kube-proxy.kubeconfig",
	}
	for source, name := range copies {
		if err := copySecret(source, n.Layout.Host(filepath.Join(machine.PKI, name))); err != nil {
			return err
		}
	}
	kubeconfig := n.Layout.Host(machine.PKI + "/kubelet.kubeconfig")
	return errors.Join(authority.Kubeconfig(kubeconfig, server, n.Name()), n.writeConfig())
}

func (n Node) writeConfig() error {
	parsed, err := template.ParseFS(templates, "config/*")
	if err != nil {
		return err
	}
	values := map[string]string{
		"Name":       n.Name(),
		"CGroup":     "/" + n.CGroup,
		"PodSubnet":  network.PodSubnet(n.Index),
		"PodRange":   network.PodRange,
		"NodeIP":     network.NodeIP(n.Index).String(),
		"DNS":        network.DNSIP.String(),
		"Domain":     network.Domain,
		"PauseImage": PauseImage,
		"Containerd": ContainerdSocket,
		"PKI":        machine.PKI,
		"Home":       machine.Home,
		"KubeletDir": n.KubeletDir,
		"Features":   n.Features.YAML(),
		"CNIPlugins": cniPlugins(),
	}
	for _, t := range parsed.Templates() {
		var content strings.Builder
		if err := t.Execute(&content, values); err != nil {
			return fmt.Errorf("configuration %s: %w", t.Name(), err)
		}
		path := n.Layout.Host(filepath.Join(machine.Home, t.Name()))
		if filepath.Ext(path) == ".conflist" {
			path = n.Layout.Host(filepath.Join(machine.Home, "cni", t.Name()))
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cniPlugins is Debian's folder when it exists, else everybody else's.
func cniPlugins() string {
	const debian, others = "/usr/lib/cni", "/opt/cni/bin"
	if _, err := os.Stat(debian); err == nil {
		return debian
	}
	return others
}

func copySecret(source, target string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return os.WriteFile(target, data, 0o600)
}

// Spec describes the machine; programs is the host's folder of programs.
func (n Node) Spec(programs string) machine.Spec {
	return machine.Spec{
		Hostname: n.Name(),
		CGroup:   n.CGroup + "/system",
		Binds:    n.Layout.Binds(programs),
		Tmpfs:    []string{"/run"},
		Disk:     &machine.Disk{Image: diskImage, Target: n.DiskTarget},

		ReadOnlyRoot: n.ReadOnlyRoot,
		Units: []machine.Unit{
			n.unit("containerd", "", "--config="+machine.Home+"/containerd.toml"),
			n.unit("kubelet", ContainerdSocket,
				"--config="+machine.Home+"/kubelet.yaml",
				"--root-dir="+n.KubeletDir,
				"--kubeconfig="+machine.PKI+"/kubelet.kubeconfig",
				"--hostname-override="+n.Name(),
				"--node-ip="+network.NodeIP(n.Index).String(),
				"--v=2",
			),
			n.unit("kube-proxy", "", "--config="+machine.Home+"/kube-proxy.yaml"),
		},
	}
}

func (n Node) unit(name, after string, flags ...string) machine.Unit {
	return machine.Unit{
		Name:  name,
		Args:  append([]string{machine.Programs + "/" + name}, flags...),
		After: after,
		// containerd looks for its shim in PATH.
		Env: []string{
			"PATH=" + machine.Programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		},
		Log: machine.Logs + "/" + name + ".log",
	}
}
