// Package component builds the programs that a cluster consists of, from the
// pinned modules in the components folder, into a cache.
package component

import "strings"

// Component is one pinned module and the programs built from it.
type Component struct {
	// Name is the folder of its module.
	Name string
	// Module is the one whose version is the component's.
	Module   string
	Programs []Program
	// Sources are files of the component's own folder that its programs are made
	// from, beside go.mod and go.sum.
	Sources []string
	// VersionVariables are -X assignments in which {version}, {major} and {minor}
	// stand for the module's version and its parts.
	VersionVariables []string
}

// Program is one main package.
type Program struct {
	Name    string
	Package string
}

const (
	kubernetes  = "k8s.io/kubernetes"
	containerd  = "github.com/containerd/containerd/v2"
	provisioner = "github.com/kubernetes-csi/external-provisioner/v6"
	resizer     = "github.com/kubernetes-csi/external-resizer/v2"
	snapshotter = "github.com/kubernetes-csi/external-snapshotter/v8"
	coredns     = "github.com/coredns/coredns"
)

// All lists every component; the small ones come first, so that a failure of the
// machine shows before the long build.
func All() []Component {
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
			Name: "csi-provisioner", Module: provisioner,
			Programs:         programs(provisioner+"/cmd/", "csi-provisioner"),
			VersionVariables: []string{"main.version={version}"},
		},
		{
			Name: "csi-resizer", Module: resizer,
			Programs:         programs(resizer+"/cmd/", "csi-resizer"),
			VersionVariables: []string{"main.version={version}"},
		},
		{
			Name: "csi-snapshotter", Module: snapshotter,
			Programs:         programs(snapshotter+"/cmd/", "csi-snapshotter", "snapshot-controller"),
			VersionVariables: []string{"main.version={version}"},
		},
		{
			Name: "coredns", Module: coredns,
			Programs: []Program{{"coredns", "."}},
			Sources:  []string{"main.go"},
		},
		{
			Name: "kubernetes", Module: kubernetes,
			Programs: append(programs(kubernetes+"/cmd/", "kube-apiserver", "kube-controller-manager",
				"kube-scheduler", "kube-proxy", "kubelet", "kubectl"),
				Program{"agnhost", kubernetes + "/test/images/agnhost"}),
			VersionVariables: []string{
				"k8s.io/component-base/version.gitVersion={version}",
				"k8s.io/component-base/version.gitMajor={major}",
				"k8s.io/component-base/version.gitMinor={minor}",
			},
		},
	}
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
