package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxNodeNameBytes is Kubernetes' limit on the name of a node, a DNS subdomain
	// (pkg/apis/core/validation, ValidateNodeName). CSI's on a node ID is 256.
	maxNodeNameBytes = 253
	// maxDriverNameBytes leaves room for "topology." before it: CSI allows a topology key's prefix
	// 63 characters (spec, Topology), as many as a plugin's name (GetPluginInfoResponse.name).
	maxDriverNameBytes = 63 - len(volume.TopologyPrefix)
	maxPoolNameBytes   = 63
	// maxPools bounds the comparison of all pairs of paths. A node has far fewer filesystems.
	maxPools          = 256
	maxHostPaths      = 256
	maxShutdownGrace  = 10 * time.Minute
	maxTrashRetention = 8760 * time.Hour
	// maxCopies is more than makes any disk faster.
	maxCopies = 64
	// maxSnapshotsPerVolume is more than any pool can hold.
	maxSnapshotsPerVolume = 1_000_000
	minOvercommit         = 0.1
	maxOvercommit         = 1000
)

var (
	// subdomain is Kubernetes' DNS-1123 subdomain: the names of a Node, and of a CSIDriver
	// (pkg/apis/storage/validation, ValidateCSIDriverName). CSI allows a plugin's name capitals,
	// too, but that object and a topology key do not.
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	poolName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
)

// Validate reports every fault of the configuration with its file and line, its flag, or its field.
// It looks at values only, never at the disk: Run finds out whether a pool can be opened.
func (c Config) Validate() error {
	f := &faults{sources: c.sources}
	c.check(f)
	return f.err()
}

func (c Config) check(f *faults) {
	c.checkSockets(f)
	c.checkNames(f)
	c.checkController(f)
	checkPath(f, "kubeletDir", c.KubeletDir)
	if c.KubeletDir == "/" {
		f.addf("kubeletDir",
			"\"/\" is not kubelet's directory: give kubelet's --root-dir, most often /var/lib/kubelet")
	}
	if err := checkAddress(c.MetricsAddress); c.MetricsAddress != "" && err != nil {
		f.addf("metricsAddress", "%v", err)
	}
	if err := CheckLoopback(c.StatusAddress); err != nil {
		f.addf("statusAddress", "%v", err)
	}
	checkDuration(f, "shutdownGrace", c.ShutdownGrace, maxShutdownGrace)
	// kubelet keeps the number in 32 bits and would truncate a larger one.
	if c.MaxVolumesPerNode < 0 || c.MaxVolumesPerNode > math.MaxInt32 {
		f.addf("maxVolumesPerNode", "%d must be 0 (no limit) to %d", c.MaxVolumesPerNode, math.MaxInt32)
	}
	checkPath(f, "hostRoot", c.HostRoot)
	c.checkPools(f)
	c.checkHostPaths(f)
	checkPath(f, "gitFetcherSocket", c.GitFetcherSocket)
	c.checkGitSources(f)
	c.checkIOLimits(f)
}

func (c Config) checkSockets(f *faults) {
	path, err := SocketPath(c.Endpoint)
	if err != nil {
		f.addf("endpoint", "%v", err)
	}
	if c.SidecarEndpoint == "" {
		return
	}
	switch sidecars, sidecarErr := SocketPath(c.SidecarEndpoint); {
	case sidecarErr != nil:
		f.addf("sidecarEndpoint", "%v", sidecarErr)
	case err == nil && sidecars == path:
		f.addf("sidecarEndpoint", "%s is the socket of %s: the sidecars need one of their own",
			quote(c.SidecarEndpoint), f.sources.place("endpoint"))
	}
	// 0 is root's group. 4294967295 is -1, which chown(2) takes for "do not change".
	if c.SidecarGroup == 0 || c.SidecarGroup == math.MaxUint32 {
		f.addf("sidecarGroup", "%d must be a group ID of 1 to %d", c.SidecarGroup,
			uint32(math.MaxUint32-1))
	}
}

// checkController wants all that a link to the controller needs, or nothing of it.
func (c Config) checkController(f *faults) {
	if c.ControllerAddress == "" {
		for field, value := range map[string]string{
			"controllerCA":         c.ControllerCA,
			"controllerToken":      c.ControllerToken,
			"controllerServerName": c.ControllerServerName,
		} {
			if value != "" {
				f.addf(field, "is of use only with %s", f.sources.place("controllerAddress"))
			}
		}
		return
	}
	host, port, err := net.SplitHostPort(c.ControllerAddress)
	if number, portErr := strconv.ParseUint(port, 10, 16); err != nil || host == "" ||
		hasControl(host) || portErr != nil || number == 0 {
		f.addf("controllerAddress", "%s must be host:port with a port of 1 to 65535, such as "+
			"csi-hostpath-controller:9820", quote(c.ControllerAddress))
	}
	checkPath(f, "controllerCA", c.ControllerCA)
	checkPath(f, "controllerToken", c.ControllerToken)
	if name := c.ControllerServerName; len(name) > maxNodeNameBytes || !subdomain.MatchString(name) {
		f.addf("controllerServerName", "%s is no name of a server, which is 1 to %d of a-z, 0-9, - and .",
			quote(c.ControllerServerName), maxNodeNameBytes)
	}
}

// checkIOLimits refuses what is no path, and a group without the filesystem that it is on.
func (c Config) checkIOLimits(f *faults) {
	limits := c.IOLimits
	if limits.Cgroups != "" {
		checkPath(f, "ioLimits.cgroups", limits.Cgroups)
	}
	switch group := limits.PodsGroup; {
	case group == "":
	case limits.Cgroups == "":
		f.addf("ioLimits.podsGroup", "is of use only with %s", f.sources.place("ioLimits.cgroups"))
	case !filepath.IsLocal(group) || filepath.Clean(group) != group || group == ".":
		f.addf("ioLimits.podsGroup", "%s must be a path below the root of the hierarchy, such as "+
			"kubelet.slice/kubelet-kubepods.slice", quote(group))
	}
}

// checkHostPaths refuses rules for paths that the driver never allows.
func (c Config) checkHostPaths(f *faults) {
	if len(c.HostPaths) > maxHostPaths {
		f.addf("hostPaths", "%d rules, at most %d are allowed", len(c.HostPaths), maxHostPaths)
		return
	}
	rules := c.HostPathRules()
	for i, rule := range c.HostPaths {
		at := fmt.Sprintf("hostPaths[%d].", i)
		checkPath(f, at+"path", rule.Path)
		if err := rules.Validate(rule.rule()); err != nil && filepath.IsAbs(rule.Path) &&
			filepath.Clean(rule.Path) == rule.Path {
			f.addf(at+"path", "%v", err)
		}
		rule.checkLists(f, at)
	}
}

// checkLists checks the lists of a rule; at is the rule's field name with a dot.
func (h HostPath) checkLists(f *faults, at string) {
	checkNamespaces(f, at, h.Namespaces)
	for j, t := range h.Types {
		if !slices.Contains(volume.Types(), volume.Type(t)) {
			f.addf(fmt.Sprintf("%stypes[%d]", at, j), "%s must be one of %v", quote(t), volume.Types())
		}
	}
}

// checkNamespaces checks the namespaces of a rule; at is the rule's field name with a dot. The name
// of a namespace is a DNS label (RFC 1123), as that of a pool.
func checkNamespaces(f *faults, at string, namespaces []string) {
	for j, namespace := range namespaces {
		if len(namespace) > maxPoolNameBytes || !poolName.MatchString(namespace) {
			f.addf(fmt.Sprintf("%snamespaces[%d]", at, j),
				"%s is no name of a namespace, which is 1 to %d of a-z, 0-9 and -", quote(namespace),
				maxPoolNameBytes)
		}
	}
}

// HostPathRules are the operator's rules, and the directories that no rule can allow: those of the
// driver and of kubelet.
func (c Config) HostPathRules() *hostpath.Rules {
	own := []string{c.KubeletDir}
	for _, p := range c.Pools {
		own = append(own, p.Path)
	}
	// Other values are reported elsewhere.
	own = slices.DeleteFunc(own, func(dir string) bool { return !isComparable(dir) })
	for _, endpoint := range []string{c.Endpoint, c.SidecarEndpoint} {
		if socket, err := SocketPath(endpoint); err == nil {
			own = append(own, socket)
		}
	}
	list := make([]hostpath.Rule, 0, len(c.HostPaths))
	for _, h := range c.HostPaths {
		list = append(list, h.rule())
	}
	return hostpath.NewRules(list, own...)
}

func (h HostPath) rule() hostpath.Rule {
	types := make([]volume.Type, 0, len(h.Types))
	for _, t := range h.Types {
		types = append(types, volume.Type(t))
	}
	return hostpath.Rule{
		Path:       h.Path,
		ReadOnly:   h.ReadOnly,
		Namespaces: h.Namespaces,
		Inline:     h.Inline,
		Types:      types,
	}
}

func (c Config) checkNames(f *faults) {
	const syntax = "of a-z, 0-9, - and ., each part between dots beginning and ending with a letter or digit"
	switch {
	case c.NodeName == "":
		f.addf("nodeName", "is empty: give --node-name or set NODE_NAME")
	case len(c.NodeName) > maxNodeNameBytes || !subdomain.MatchString(c.NodeName):
		f.addf(
			"nodeName",
			"%s is no name of a node in Kubernetes, which is 1 to %d %s: give the one that kubectl get nodes shows",
			quote(c.NodeName),
			maxNodeNameBytes,
			syntax,
		)
	}
	if len(c.DriverName) > maxDriverNameBytes || !subdomain.MatchString(c.DriverName) {
		f.addf("driverName", "%s is no name of a CSI driver in Kubernetes, which is here 1 to %d %s",
			quote(c.DriverName), maxDriverNameBytes, syntax)
	}
}

func (c Config) checkPools(f *faults) {
	switch {
	case len(c.Pools) == 0:
		f.addf("pools",
			"no pool is configured: list pools in the --config file, or give --pool name=path")
		return
	case len(c.Pools) > maxPools:
		f.addf("pools", "%d pools, at most %d are allowed", len(c.Pools), maxPools)
		return
	}
	for i, p := range c.Pools {
		p.check(f, poolField(i, ""))
		c.checkPoolPath(f, i)
		for j := range i {
			c.checkPair(f, i, j)
		}
	}
	c.checkDefault(f)
}

// check checks the fields of one pool; at is the pool's field name with a dot.
func (p Pool) check(f *faults, at string) {
	switch {
	case p.Name == "":
		f.addf(at+"name", "is missing: every pool needs a name")
	case len(p.Name) > maxPoolNameBytes || !poolName.MatchString(p.Name):
		f.addf(at+"name",
			"%s must be 1 to %d of a-z, 0-9 and -, beginning and ending with a letter or digit",
			quote(p.Name), maxPoolNameBytes)
	}
	checkPath(f, at+"path", p.Path)
	// Written this way round because every comparison with NaN is false.
	if !(p.Overcommit >= minOvercommit && p.Overcommit <= maxOvercommit) {
		f.addf(at+"overcommit", "%v must be a factor of %v to %v", p.Overcommit, minOvercommit,
			maxOvercommit)
	}
	if p.Reserve < 0 {
		f.addf(at+"reserve", "%d must be 0 or more bytes", p.Reserve)
	}
	switch p.Quota {
	case QuotaRequired, QuotaPreferred, QuotaOff:
	default:
		f.addf(at+"quota", "%s must be %s, %s or %s", quote(p.Quota), QuotaRequired, QuotaPreferred,
			QuotaOff)
	}
	checkDuration(f, at+"trashRetention", p.TrashRetention, maxTrashRetention)
	if p.MaxCopies < 1 || p.MaxCopies > maxCopies {
		f.addf(at+"maxCopies", "%d must be 1 to %d", p.MaxCopies, maxCopies)
	}
	if p.CopyBytesPerSecond != 0 && p.CopyBytesPerSecond < copytree.MaxChunk {
		f.addf(at+"copyBytesPerSecond", "%d must be 0 (no limit) or at least %d bytes",
			p.CopyBytesPerSecond, copytree.MaxChunk)
	}
	if p.MaxSnapshotsPerVolume < 0 || p.MaxSnapshotsPerVolume > maxSnapshotsPerVolume {
		f.addf(at+"maxSnapshotsPerVolume", "%d must be 0 (no limit) to %d", p.MaxSnapshotsPerVolume,
			maxSnapshotsPerVolume)
	}
}

// checkPoolPath refuses directories in which a pool would harm the node or the driver.
func (c Config) checkPoolPath(f *faults, i int) {
	path, field := c.Pools[i].Path, poolField(i, "path")
	if !filepath.IsAbs(path) {
		return // already reported
	}
	if path == "/" {
		f.addf(field, "\"/\" is the whole node: give the pool a directory of its own")
		return
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if isWithin(dir, path) {
			f.addf(field, "%s is in %s, which is no disk: give the pool a directory of its own", quote(path),
				dir)
		}
	}
	if kubelet := c.KubeletDir; isComparable(kubelet) &&
		(isWithin(kubelet, path) || isWithin(path, kubelet)) {
		f.addf(field, "%s overlaps kubelet's directory %s: give the pool a directory apart from it",
			quote(path), quote(kubelet))
	}
	for _, endpoint := range []string{c.Endpoint, c.SidecarEndpoint} {
		if socket, err := SocketPath(endpoint); err == nil && isWithin(path, socket) {
			f.addf(field, "%s contains the driver's own socket %s: give the pool a directory apart from it",
				quote(path), quote(socket))
		}
	}
}

// checkPair compares pool i with an earlier one.
func (c Config) checkPair(f *faults, i, j int) {
	p, earlier := c.Pools[i], c.Pools[j]
	if p.Name != "" && p.Name == earlier.Name {
		f.addf(poolField(i, "name"), "%s is the name of another pool (%s): names must differ",
			quote(p.Name), f.sources.place(poolField(j, "name")))
	}
	if !isComparable(p.Path) || !isComparable(earlier.Path) {
		return // already reported
	}
	if isWithin(p.Path, earlier.Path) || isWithin(earlier.Path, p.Path) {
		f.addf(poolField(i, "path"), "%s overlaps %s of another pool (%s): pools must lie apart",
			quote(p.Path), quote(earlier.Path), f.sources.place(poolField(j, "path")))
	}
}

// checkDefault wants exactly one default pool.
func (c Config) checkDefault(f *faults) {
	first := -1
	for i, p := range c.Pools {
		switch {
		case f.sources.isBad(poolField(i, "default")):
			return // the value is unknown
		case p.Default && first >= 0:
			f.addf(poolField(i, "default"), "another pool is the default (%s): exactly one may be",
				f.sources.place(poolField(first, "default")))
		case p.Default:
			first = i
		}
	}
	if first < 0 && len(c.Pools) > 1 {
		f.addf(
			"pools",
			"none of the %d pools is the default: exactly one must say default: true, which only the --config file can",
			len(c.Pools),
		)
	}
}

func poolField(i int, name string) string { return fmt.Sprintf("pools[%d].%s", i, name) }

func checkPath(f *faults, field, path string) {
	switch {
	case path == "":
		f.addf(field, "is missing: give an absolute path")
	case hasControl(path):
		f.addf(field, "%s must be UTF-8 without control characters", quote(path))
	case !filepath.IsAbs(path):
		f.addf(field, "%s must be an absolute path", quote(path))
	case filepath.Clean(path) != path:
		f.addf(field, "%s must be written without \"..\", \".\" and needless slashes: %s", quote(path),
			quote(filepath.Clean(path)))
	}
}

func checkDuration(f *faults, field string, d, most time.Duration) {
	if d < 0 || d > most {
		f.addf(field, "%v must be 0 to %v", d, most)
	}
}

// checkAddress wants host:port with a number, because a port's name depends on the node's
// /etc/services.
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%s must be host:port or :port, such as :9809", quote(address))
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %s in %s must be a number of 0 to 65535", quote(port), quote(address))
	}
	return nil
}

// CheckLoopback refuses the address of a listener that others than this machine, or this pod, could
// reach. Empty is no listener.
func CheckLoopback(address string) error {
	if address == "" {
		return nil
	}
	if err := checkAddress(address); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(address) // checkAddress has split it
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return fmt.Errorf("%s must have a loopback address, such as 127.0.0.1:9815: "+
			"whoever reaches it reads everything", quote(address))
	}
	return nil
}

// isComparable says whether a path can be compared with isWithin: everything is within /.
func isComparable(path string) bool { return filepath.IsAbs(path) && path != "/" }

// isWithin says whether path is dir or lies in it. It compares text. Whoever opens the path checks
// symbolic links.
func isWithin(dir, path string) bool {
	dir, path = filepath.Clean(dir), filepath.Clean(path)
	return dir == path || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func hasControl(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
}
