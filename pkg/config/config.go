// Package config is the driver's configuration: flags and a YAML file, read with the line of each
// fault, and checked as a whole.
package config

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
)

// What a pool does about a size that its filesystem may be unable to enforce.
const (
	// QuotaRequired: a pool that cannot enforce sizes is not used at all.
	QuotaRequired = "required"
	// QuotaPreferred: sizes are enforced where the filesystem can; where it cannot, the log says so.
	QuotaPreferred = "preferred"
	// QuotaOff: sizes are only counted.
	QuotaOff = "off"
)

// Config is the driver's whole configuration. Flags set what differs by node or process, the file
// sets what the operator decides (fields with a yaml name). Start from Default: a zero field
// is a value, not "the default".
type Config struct {
	// Endpoint is the CSI socket: unix:///path or unix:/path, absolute, at most 107 bytes of path.
	// Default unix:///csi/csi.sock.
	Endpoint string `yaml:"-"`
	// SidecarEndpoint is a second socket, for the sidecar containers beside the driver: they need
	// no right to mount, and no root. Written as Endpoint is. Default empty: none.
	SidecarEndpoint string `yaml:"-"`
	// SidecarGroup is the group that may use SidecarEndpoint, a group ID of 1 to 4294967294.
	// Default 65532, which is "nonroot" in the images of the sidecars.
	SidecarGroup uint32 `yaml:"-"`
	// NodeName is the node's name in Kubernetes: a DNS subdomain (a-z, 0-9, -, .; at most 253).
	// Default: the environment's NODE_NAME, then the host's name; Flags.Load fills it in.
	NodeName string `yaml:"-"`
	// DriverName is the CSI plugin name: a DNS subdomain of at most 54 characters. Default
	// hostpath.csi.local.
	DriverName string `yaml:"-"`
	// KubeletDir is kubelet's root directory, absolute and clean. Every target path lies in it.
	// Default /var/lib/kubelet.
	KubeletDir string `yaml:"-"`
	// MetricsAddress is the host:port on which metrics are served over HTTP. Default empty: not
	// served.
	MetricsAddress string `yaml:"-"`
	// StatusAddress is the loopback address and port on which the status page and its API are served
	// over HTTP. Default empty: not served.
	StatusAddress string `yaml:"-"`
	// RegisterWithKubelet registers the driver with kubelet, in plugins_registry of KubeletDir.
	// Default false.
	RegisterWithKubelet bool `yaml:"-"`
	// ControllerAddress is the host:port of the controller, to which the driver then links. Default
	// empty: no controller.
	ControllerAddress string `yaml:"-"`
	// ControllerCA is the file with the certificates that the controller's may come from (PEM),
	// absolute and clean. It may come later. Required with ControllerAddress.
	ControllerCA string `yaml:"-"`
	// ControllerToken is the file with the token that proves the node's name to the controller,
	// absolute and clean. Required with ControllerAddress.
	ControllerToken string `yaml:"-"`
	// ControllerServerName is the name in the controller's certificate: a DNS subdomain. Required with
	// ControllerAddress.
	ControllerServerName string `yaml:"-"`
	// HostRoot is where the driver sees the node's file tree: / or, in a container, where the host's
	// / is mounted. Default /.
	HostRoot string `yaml:"-"`
	// GitFetcherSocket is the unix socket of the process that fetches git repositories, absolute and
	// clean. Only GitSources use it. Default /run/csi-hostpath-git/fetch.sock.
	GitFetcherSocket string `yaml:"-"`
	// ShutdownGrace is how long running calls may take to finish after SIGTERM, 0 to 10m.
	// Default 10s.
	ShutdownGrace time.Duration `yaml:"-"`

	// MaxVolumesPerNode is the number of volumes that may be published on the node. The scheduler
	// enforces it. 0 to 2147483647, 0 = no limit. Default 0.
	MaxVolumesPerNode int64 `yaml:"maxVolumesPerNode"`
	// Pools are the pools of this node, 1 to 256, exactly one of them the default. No default.
	Pools []Pool `yaml:"pools"`
	// HostPaths are the rules for volumes that refer to existing paths of the node, at most 256.
	// Default none: no such volume is allowed.
	HostPaths []HostPath `yaml:"hostPaths"`
	// GitSources are the rules for content of git repositories, at most 256. Default none: there is no
	// such content.
	GitSources []GitSource `yaml:"gitSources"`
	// IOLimits lets VolumeAttributesClasses limit the I/O of volumes. Default: they cannot.
	IOLimits IOLimits `yaml:"ioLimits"`

	// sources says where each field was set, for error messages.
	sources sources
}

// Pool describes one pool. Start from NewPool.
type Pool struct {
	// Name is the pool's name in classes and logs: a DNS label (a-z, 0-9, -; at most 63).
	// Required.
	Name string `yaml:"name"`
	// Path is the pool's directory, absolute and clean. It does not overlap another pool's directory
	// or kubelet's. Required.
	Path string `yaml:"path"`
	// Default marks the pool of classes that name no pool. Default false, but a single pool is always
	// the default.
	Default bool `yaml:"default"`
	// Optional: the pool may be absent on a node without making the driver not ready. Default
	// false.
	Optional bool `yaml:"optional"`
	// AllowMultiNode accepts the multi-node access modes, for pods that share a volume on this node.
	// Default false.
	AllowMultiNode bool `yaml:"allowMultiNode"`
	// Overcommit is how many times the pool's size may be promised, a factor of 0.1 to 1000.
	// Default 1.
	Overcommit float64 `yaml:"overcommit"`
	// Reserve is the space in bytes that is never promised to volumes. The file uses Kubernetes'
	// quantity syntax. Default 0.
	Reserve int64 `yaml:"reserve" unit:"bytes"`
	// Quota is QuotaRequired, QuotaPreferred or QuotaOff. Default preferred.
	Quota string `yaml:"quota"`
	// RequireMountpoint refuses the pool while nothing is mounted on its path. Default false.
	RequireMountpoint bool `yaml:"requireMountpoint"`
	// TrashRetention is how long deleted data stays in the trash before it is purged, 0 to 8760h.
	// Default 0: at once.
	TrashRetention time.Duration `yaml:"trashRetention"`
	// MaxCopies is how many snapshots, restores and clones may be copied at a time, 1 to 64. Further
	// copies wait. Default 2.
	MaxCopies int64 `yaml:"maxCopies"`
	// CopyBytesPerSecond is how many bytes all these copies together may move in a second, at least
	// 1 MiB; 0 = no limit. Default 0.
	CopyBytesPerSecond int64 `yaml:"copyBytesPerSecond" unit:"bytes"`
	// MaxSnapshotsPerVolume is how many snapshots one volume may have; 0 = no limit. Default 0.
	MaxSnapshotsPerVolume int64 `yaml:"maxSnapshotsPerVolume"`
}

// HostPath allows volumes to refer to a path of the node and to everything below it.
type HostPath struct {
	// Path is the allowed root, absolute and clean. It must not contain a symbolic link. Required.
	Path string `yaml:"path"`
	// ReadOnly makes every mount of it read-only, and the mounts below. Default false.
	ReadOnly bool `yaml:"readOnly"`
	// Namespaces are the namespaces whose pods may use it. Default none: all namespaces.
	Namespaces []string `yaml:"namespaces"`
	// Inline lets pods name the path themselves, without a PersistentVolume. Default false.
	Inline bool `yaml:"inline"`
	// Types are the allowed volume types. Default none: all but devices.
	Types []string `yaml:"types"`
}

// GitSource allows volumes to show the content of git repositories at and below a URL. Start from
// NewGitSource.
type GitSource struct {
	// URLPrefix is a whole URL, or one that ends with a slash and is above others: https://, ssh://,
	// or http:// for what everybody on the way may read and change. It has no user. Required.
	URLPrefix string `yaml:"urlPrefix"`
	// Namespaces are the namespaces whose pods may show the content. Default none: all namespaces.
	Namespaces []string `yaml:"namespaces"`
	// MaxSize is the largest size of a content in bytes. The file uses Kubernetes' quantity syntax.
	// Required.
	MaxSize int64 `yaml:"maxSize" unit:"bytes"`
	// MinPeriod is the shortest time between two questions to a server, 1s to 8760h. Default 1m.
	MinPeriod time.Duration `yaml:"minPeriod"`
	// Addresses are networks that may be reached although they are the node's own, link-local or the
	// API server's. Default none.
	Addresses []string `yaml:"addresses"`
}

// NewGitSource is a rule with every default.
func NewGitSource() GitSource { return GitSource{MinPeriod: time.Minute} }

// IOLimits says where the node's control groups are.
type IOLimits struct {
	// Cgroups is where the driver sees the node's /sys/fs/cgroup, absolute and clean. Default empty:
	// no I/O is limited.
	Cgroups string `yaml:"cgroups"`
	// PodsGroup is the group that kubelet has made for all pods, a path below the hierarchy's root.
	// Default empty: kubepods.slice or kubepods.
	PodsGroup string `yaml:"podsGroup"`
}

// Default is a Config with every default; node name and pools are missing.
func Default() Config {
	return Config{
		Endpoint:     "unix:///csi/csi.sock",
		SidecarGroup: 65532,
		DriverName:   "hostpath.csi.local",
		KubeletDir:   "/var/lib/kubelet",
		HostRoot:     "/",

		GitFetcherSocket: "/run/csi-hostpath-git/fetch.sock",
		ShutdownGrace:    10 * time.Second,
	}
}

// NewPool is a pool with every default.
func NewPool(name, path string) Pool {
	return Pool{
		Name:       name,
		Path:       path,
		Overcommit: 1,
		Quota:      QuotaPreferred,
		MaxCopies:  pool.DefaultMaxCopies,
	}
}

// DefaultPool is the name of the pool of classes that name no pool; empty when the configuration
// has none.
func (c Config) DefaultPool() string {
	if len(c.Pools) == 1 {
		return c.Pools[0].Name
	}
	for _, p := range c.Pools {
		if p.Default {
			return p.Name
		}
	}
	return ""
}

// Flags holds the command line. Load makes a Config of it. Start from NewFlags.
type Flags struct {
	// Config holds the defaults and the values of the given flags.
	Config
	// ConfigFile is the configuration file. Default empty: none.
	ConfigFile string
	// PoolPaths are further pools, name=path, with every other default.
	PoolPaths []string
}

// NewFlags is a command line without flags.
func NewFlags() *Flags { return &Flags{Config: Default()} }

// Register adds the driver's flags to a flag set. Call it before the flag set is parsed.
func (f *Flags) Register(fs *pflag.FlagSet) {
	fs.StringVar(&f.Endpoint, "endpoint", f.Endpoint, "CSI socket, unix:///absolute/path")
	fs.StringVar(&f.SidecarEndpoint, "sidecar-endpoint", f.SidecarEndpoint,
		"second CSI socket, without the calls that mount (default: none)")
	fs.Uint32Var(&f.SidecarGroup, "sidecar-group", f.SidecarGroup,
		"group ID that may use the socket of --sidecar-endpoint")
	fs.StringVar(&f.NodeName, "node-name", f.NodeName,
		"name of this node (default: $NODE_NAME, then the host's name)")
	fs.StringVar(&f.DriverName, "driver-name", f.DriverName, "CSI plugin name")
	fs.StringVar(&f.KubeletDir, "kubelet-dir", f.KubeletDir,
		"kubelet's root directory; every publish path lies in it")
	fs.StringVar(&f.MetricsAddress, "metrics-address", f.MetricsAddress,
		"host:port to serve metrics on (default: not served)")
	fs.StringVar(&f.StatusAddress, "status-address", f.StatusAddress,
		"loopback address and port for the status page and its API (default: not served)")
	fs.BoolVar(&f.RegisterWithKubelet, "register-with-kubelet", f.RegisterWithKubelet,
		"offer the driver to kubelet, without a registrar")
	fs.StringVar(&f.ControllerAddress, "controller-address", f.ControllerAddress,
		"host:port of the controller (default: none, and no link to it)")
	fs.StringVar(&f.ControllerCA, "controller-ca", f.ControllerCA,
		"file with the CA certificates of the controller")
	fs.StringVar(&f.ControllerToken, "controller-token", f.ControllerToken,
		"file with the token that proves the node's name to the controller")
	fs.StringVar(&f.ControllerServerName, "controller-server-name", f.ControllerServerName,
		"name in the controller's certificate")
	fs.StringVar(&f.HostRoot, "host-root", f.HostRoot, "where the node's / is mounted, for hostPaths")
	fs.StringVar(&f.GitFetcherSocket, "git-fetcher-socket", f.GitFetcherSocket,
		"socket of the process that fetches git repositories, for gitSources")
	fs.DurationVar(&f.ShutdownGrace, "shutdown-grace", f.ShutdownGrace,
		"time for calls under way to finish after SIGTERM")
	fs.StringVar(&f.ConfigFile, "config", f.ConfigFile, "configuration file: pools and limits")
	fs.StringArrayVar(&f.PoolPaths, "pool", f.PoolPaths,
		"a pool, name=path, with defaults for the rest; repeatable")
}
