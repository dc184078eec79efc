// Package cluster runs a real Kubernetes on one Linux machine, without a
// container engine or a registry: for `go run ./test/cluster`, and for tests.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/component"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/disk"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/gates"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/network"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/node"
)

// Environment variables that give the defaults of flags and options.
const (
	NameVariable       = "CLUSTER_NAME"
	CacheVariable      = "CLUSTER_CACHE"
	KubernetesVariable = "CLUSTER_KUBERNETES"
)

// Defaults of Options.
const (
	DefaultName     = "csi-hostpath"
	DefaultNodes    = 3
	DefaultDisks    = "btrfs,xfs,ext4"
	DefaultDiskSize = 10 << 30
	DefaultDiskPath = "/var/lib/csi-hostpath/pools/default"
	// DefaultKubeletDir is the one of most clusters.
	DefaultKubeletDir = node.DefaultKubeletDir
)

// stateRoot holds one folder a cluster, with everything that the cluster is.
const stateRoot = "/var/lib/csi-hostpath-cluster"

// validName is what fits a folder, a control group and a host name.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// Options say what cluster to start. Zero values mean the defaults.
type Options struct {
	// Name tells clusters of one machine apart; default CLUSTER_NAME, else DefaultName.
	Name string `json:"name"`
	// Nodes is how many nodes there are, beside the control plane.
	Nodes int `json:"nodes"`
	// Disks are the filesystems of the nodes' disks (ext4, xfs, btrfs), separated
	// by commas and repeated when there are more nodes.
	Disks string `json:"disks"`
	// DiskSize is the size of each disk in bytes; the files are sparse.
	DiskSize int64 `json:"diskSize"`
	// DiskPath is where each node mounts its disk, below /var/lib, /srv or /mnt.
	DiskPath string `json:"diskPath"`
	// KubeletDir is kubelet's root directory on each node, below /var/lib, /srv or /mnt.
	KubeletDir string `json:"kubeletDir"`
	// ReadOnlyRoot makes the root filesystem of each node read-only, as that of Talos or
	// Bottlerocket: only /var/lib, /var/log, /run, /srv, /mnt, /tmp and /dev can be written.
	ReadOnlyRoot bool `json:"readOnlyRoot"`
	// Cache keeps built programs and images between clusters; default
	// CLUSTER_CACHE, else csi-hostpath-cluster in the user's cache folder.
	Cache string `json:"cache"`
	// Kubernetes is the minor version, one of KubernetesVersions; default CLUSTER_KUBERNETES, else
	// the newest that all tests pass on.
	Kubernetes string `json:"kubernetes"`
	// FeatureGates are set in every component of Kubernetes beside those that are set by default,
	// or in their place: NAME=true or NAME=false, separated by commas.
	FeatureGates string `json:"featureGates"`
	// Progress is told of each step; default: nobody is.
	Progress func(format string, args ...any) `json:"-"`

	// moduleRoot is the checkout that this runs in.
	moduleRoot string
}

// complete fills in the defaults and names every fault at once.
func (o *Options) complete(ctx context.Context) error {
	o.Name = DefaultedName(o.Name)
	o.Kubernetes = DefaultedKubernetes(o.Kubernetes)
	setDefault(&o.Nodes, DefaultNodes)
	setDefault(&o.Disks, DefaultDisks)
	setDefault(&o.DiskSize, DefaultDiskSize)
	setDefault(&o.DiskPath, DefaultDiskPath)
	setDefault(&o.KubeletDir, DefaultKubeletDir)
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	var errs []error
	if err := checkName(o.Name); err != nil {
		errs = append(errs, err)
	}
	if o.Nodes < 1 || o.Nodes > network.MaxNodes {
		errs = append(errs, fmt.Errorf("%d nodes: ask for 1 to %d", o.Nodes, network.MaxNodes))
	} else if _, err := disk.ParseFilesystems(o.disks(), o.Nodes); err != nil {
		errs = append(errs, err)
	}
	for _, path := range []string{o.DiskPath, o.KubeletDir} {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			errs = append(errs, fmt.Errorf("path %q: give a clean absolute path", path))
		}
	}
	if !slices.Contains(KubernetesVersions(), o.Kubernetes) {
		errs = append(errs, noSuchKubernetes(o.Kubernetes))
	}
	features, err := gates.Parse(defaultGates(o.Kubernetes), o.FeatureGates)
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	o.FeatureGates = features.String()
	if o.Cache, err = CacheFolder(o.Cache); err != nil {
		return err
	}
	o.moduleRoot, err = component.ModuleRoot(ctx)
	return err
}

// disks is the list without what one or two nodes have no use for, when it is
// the default.
func (o *Options) disks() string {
	if o.Disks == DefaultDisks && o.Nodes < 3 {
		return [...]string{"btrfs", "btrfs,xfs"}[o.Nodes-1]
	}
	return o.Disks
}

// features are the feature gates, which complete has checked.
func (o *Options) features() gates.Gates {
	features, _ := gates.Parse(o.FeatureGates)
	return features
}

// same reports whether two completed options describe one cluster.
func (o *Options) same(other *Options) bool {
	return o.Name == other.Name && o.Nodes == other.Nodes && o.Disks == other.Disks &&
		o.DiskSize == other.DiskSize && o.DiskPath == other.DiskPath &&
		o.KubeletDir == other.KubeletDir && o.ReadOnlyRoot == other.ReadOnlyRoot &&
		o.Kubernetes == other.Kubernetes && o.FeatureGates == other.FeatureGates
}

// KubernetesVersions are the minor versions of Kubernetes that there are, the newest first.
func KubernetesVersions() []string { return component.KubernetesVersions() }

func noSuchKubernetes(version string) error {
	return fmt.Errorf("kubernetes %q: there are %s", version,
		strings.Join(KubernetesVersions(), " and "))
}

// DefaultedKubernetes returns version, or else the environment's, or else the default.
func DefaultedKubernetes(version string) string {
	setDefault(&version, os.Getenv(KubernetesVariable))
	setDefault(&version, component.DefaultKubernetes)
	return version
}

// defaultGates are alpha features that the driver has something for. Without them, Kubernetes does
// what it does for everybody.
func defaultGates(version string) string {
	if version == "1.36" { // has no such gate
		return ""
	}
	return "CSIVolumeHealth=true"
}

// checkName stands before every use of a name in a path.
func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("cluster name %q: use at most 40 lower-case letters, digits and dashes", name)
	}
	return nil
}

// DefaultedName returns name, or else the environment's, or else the default.
func DefaultedName(name string) string {
	setDefault(&name, os.Getenv(NameVariable))
	setDefault(&name, DefaultName)
	return name
}

// CacheFolder returns folder, or else the environment's, or else the user's.
func CacheFolder(folder string) (string, error) {
	setDefault(&folder, os.Getenv(CacheVariable))
	if folder != "" {
		return filepath.Abs(folder)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w: set %s", err, CacheVariable)
	}
	return filepath.Join(user, "csi-hostpath-cluster"), nil
}

func setDefault[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}
