// Package component builds the programs that a cluster consists of, from the
// pinned modules in the components folder, into a cache.
package component

import (
	"slices"
	"strings"
)

// Component is one pinned module and the programs built from it.
type Component struct {
	Name string
	// Pins is the folder of the module that pins its version. Empty: Name. Components of one module
	// share what they are compiled from.
	Pins string
	// Module is the one whose version is the component's.
	Module   string
	Programs []Program
	// Sources are files of the component's own folder that its programs are made
	// from, beside go.mod and go.sum.
	Sources []string
	// VersionVariables are -X assignments in which {version}, {major} and {minor}
	// stand for the module's version and its parts.
	VersionVariables []string
	// Tags are build tags of programs that have parts in C. Empty: the programs are all Go.
	Tags string
}

// Program is one main package.
type Program struct {
	Name    string
	Package string
}

const (
	kubernetes  = "k8s.io/kubernetes"
	containerd  = "github.com/containerd/containerd/v2"
	runc        = "github.com/opencontainers/runc"
	provisioner = "github.com/kubernetes-csi/external-provisioner/v6"
	resizer     = "github.com/kubernetes-csi/external-resizer/v2"
	snapshotter = "github.com/kubernetes-csi/external-snapshotter/v8"
	populators  = "github.com/kubernetes-csi/lib-volume-populator"
	coredns     = "github.com/coredns/coredns"
)

// sidecarsPins pins the CSI sidecars, and the snapshot API.
const sidecarsPins = "csi-sidecars"

// DefaultKubernetes is the version of Kubernetes that All is asked for by default.
const DefaultKubernetes = "1.37"

// KubernetesVersions are those that can be built, the newest first.
func KubernetesVersions() []string { return []string{"1.37", "1.36"} }

// All lists every component, with one of KubernetesVersions. The small ones come first, so that a
// failure of the machine shows before the long build.
func All(kubernetesVersion string) []Component {
	return slices.Concat(runtimes(), sidecars(), []Component{kubernetesOf(kubernetesVersion)})
}

// runtimes are what a cluster has beside Kubernetes.
func runtimes() []Component {
	return []Component{
		{
			Name: "etcd", Module: "go.etcd.io/etcd/server/v3",
			Programs: []Program{{"etcd", "go.etcd.io/etcd/server/v3"}},
		},
		{
			Name: "containerd", Module: containerd,
			Programs:         programs(containerd+"/cmd/", "containerd", "containerd-shim-runc-v2", "ctr"),
			VersionVariables: []string{containerd + "/version.Version={version}"},
		},
		{
			// Debian 12 has 1.1, which keeps the flags of mounts and has no idmapped ones (pods with
			// hostUsers: false). Kubelet has every sandbox confined by seccomp, and without that tag runc
			// refuses such a container.
			Name: "runc", Module: runc,
			Programs: []Program{{"runc", runc}},
			Tags:     "seccomp",
		},
		{
			Name: "coredns", Module: coredns,
			Programs: []Program{{"coredns", "."}},
			Sources:  []string{"main.go"},
		},
	}
}

// sidecars come from one module, so that what they have in common is compiled once.
func sidecars() []Component {
	list := []Component{
		{
			Name: "csi-provisioner", Module: provisioner,
			Programs: programs(provisioner+"/cmd/", "csi-provisioner"),
		},
		{
			Name: "csi-resizer", Module: resizer,
			Programs: programs(resizer+"/cmd/", "csi-resizer"),
		},
		{
			Name: "csi-snapshotter", Module: snapshotter,
			Programs: programs(snapshotter+"/cmd/", "csi-snapshotter", "snapshot-controller"),
		},
	}
	for i := range list {
		list[i].Pins = sidecarsPins
		list[i].VersionVariables = []string{"main.version={version}"}
	}
	return list
}

func kubernetesOf(version string) Component {
	return Component{
		Name: "kubernetes", Pins: "kubernetes-" + version, Module: kubernetes,
		Programs: append(programs(kubernetes+"/cmd/", "kube-apiserver", "kube-controller-manager",
			"kube-scheduler", "kube-proxy", "kubelet", "kubectl"),
			Program{"agnhost", kubernetes + "/test/images/agnhost"}),
		VersionVariables: versionVariables(),
	}
}

// Conformance is the tests of storage drivers of one of KubernetesVersions, and Ginkgo, which runs
// them in parallel. A cluster does not need it.
func Conformance(kubernetesVersion string) Component {
	return Component{
		Name: "conformance", Pins: "conformance-" + kubernetesVersion, Module: kubernetes,
		Programs: []Program{
			{"e2e.test", "."},
			{"ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"},
			{"hello-populator", populators + "/example/hello-populator"},
		},
		Sources:          []string{"main.go"},
		VersionVariables: versionVariables(),
	}
}

// Velero is Velero's server, node agent and command line, and its plugin for S3. A cluster does not
// need it.
func Velero() Component {
	const module = "github.com/vmware-tanzu/velero"
	return Component{
		Name: "velero", Module: module,
		Programs: append(programs(module+"/cmd/", "velero", "velero-helper", "velero-restore-helper"),
			Program{"velero-plugin-for-aws", module + "-plugin-for-aws/velero-plugin-for-aws"}),
		VersionVariables: []string{module + "/pkg/buildinfo.Version={version}"},
	}
}

// ObjectStore is an S3 server. A cluster does not need it.
func ObjectStore() Component {
	const module = "github.com/versity/versitygw"
	return Component{
		Name: "versitygw", Module: module,
		Programs: programs(module+"/cmd/", "versitygw"),
	}
}

func versionVariables() []string {
	return []string{
		"k8s.io/component-base/version.gitVersion={version}",
		"k8s.io/component-base/version.gitMajor={major}",
		"k8s.io/component-base/version.gitMinor={minor}",
	}
}

// pins is the folder of the component's module.
func (c Component) pins() string {
	if c.Pins != "" {
		return c.Pins
	}
	return c.Name
}

func programs(prefix string, names ...string) []Program {
	list := make([]Program, 0, len(names))
	for _, name := range names {
		list = append(list, Program{Name: name, Package: prefix + name})
	}
	return list
}

// linkFlags returns the value of -ldflags for a version such as v1.36.3.
func (c Component) linkFlags(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	for len(parts) < 2 {
		parts = append(parts, "")
	}
	replacer := strings.NewReplacer("{version}", version, "{major}", parts[0], "{minor}", parts[1])
	flags := []string{"-s", "-w"}
	for _, variable := range c.VersionVariables {
		flags = append(flags, "-X", replacer.Replace(variable))
	}
	return strings.Join(flags, " ")
}
