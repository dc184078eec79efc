// Package hostpath opens paths of the host that an operator has allowed, and nothing else. Where it
// stands in the driver, every path is a hostile one.
package hostpath

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Rule allows the paths at and below one root.
type Rule struct {
	// Path is the root: absolute, clean, and no link leads through it.
	Path string
	// ReadOnly makes every mount of the root read-only, mounts below it included.
	// It also keeps the driver from making anything there.
	ReadOnly bool
	// Namespaces are those whose pods may use it; none is all of them.
	Namespaces []string
	// Inline lets a pod name the path itself, without a PersistentVolume: anybody who may create
	// pods there has the path.
	Inline bool
	// Types are the types that may be asked for; none is all but devices.
	Types []volume.Type
}

// Use is who wants a path, and how.
type Use struct {
	Path      string
	Type      volume.Type
	Namespace string
	Inline    bool
}

// Rules are what the operator allows. The zero value allows nothing.
type Rules struct {
	rules     []Rule
	forbidden []string
}

// alwaysForbidden are directories that are root on the node, whoever writes to them; a single
// device below /dev may be allowed.
var alwaysForbidden = []string{
	"/boot",
	"/dev",
	"/etc",
	"/proc",
	"/root",
	"/run/containerd",
	"/run/crio",
	"/run/docker",
	"/run/docker.sock",
	"/run/k0s",
	"/run/k3s",
	"/run/podman",
	"/run/systemd",
	"/sys",
	"/var/lib/containerd",
	"/var/lib/containers",
	"/var/lib/docker",
	"/var/lib/etcd",
	"/var/lib/k0s",
	"/var/lib/kubelet",
	"/var/lib/rancher",
	"/var/run/containerd",
	"/var/run/crio",
	"/var/run/docker.sock",
	"/var/spool/cron",
}

// readOnlyAtMost are directories that are harmless to read, and root on the node to whoever writes:
// root runs what is there. Links that a pod makes among the logs, kubelet follows, as root, for
// whoever may read logs.
var readOnlyAtMost = []string{
	"/bin",
	"/lib",
	"/lib64",
	"/opt/cni",
	"/sbin",
	"/usr",
	"/var/log/containers",
	"/var/log/pods",
}

// NewRules makes rules that never allow a directory of the driver's own, such as its pools, or the
// system's, or a parent of one. What Validate says of a rule is for the operator: one that it finds
// fault with allows nothing that it must not, either.
func NewRules(rules []Rule, own ...string) *Rules {
	r := &Rules{rules: slices.Clone(rules), forbidden: slices.Concat(alwaysForbidden, own)}
	// The longest root first: it is the one that was written for the path.
	slices.SortStableFunc(r.rules, func(a, b Rule) int { return len(b.Path) - len(a.Path) })
	return r
}

// Validate says why a rule is a promise that cannot be kept. Errors: ErrForbidden.
func (r *Rules) Validate(rule Rule) error {
	if rule.Path == "/" || !path.IsAbs(rule.Path) || path.Clean(rule.Path) != rule.Path {
		return fmt.Errorf("%w: host path %q: a root is absolute and clean, and not /",
			volume.ErrForbidden, rule.Path)
	}
	if err := r.checkForbidden(rule, rule.Path, rule.onlyDevices()); err != nil {
		return err
	}
	if rule.ReadOnly && slices.ContainsFunc(rule.Types, volume.Type.IsDevice) {
		return fmt.Errorf(
			"%w: host path %s: readOnly keeps nobody from writing to a device: leave it out, or the device's type",
			volume.ErrForbidden,
			rule.Path,
		)
	}
	for _, other := range r.rules {
		if err := rule.checkNotUndone(other); err != nil {
			return err
		}
	}
	return nil
}

// checkNotUndone refuses a rule that is stricter than one for a directory above it: whoever may
// mount that directory has what is below as well, so the stricter rule would be a promise that is
// not kept. Errors: ErrForbidden.
func (rule Rule) checkNotUndone(above Rule) error {
	if rule.Path == above.Path || above.Path == "/" || !isBelow(above.Path, rule.Path) ||
		!above.hasDirectories() {
		return nil // a rule for / is a fault of its own
	}
	excluded := func(namespace string) bool { return !slices.Contains(rule.Namespaces, namespace) }
	var stricter string
	switch {
	case rule.ReadOnly && !above.ReadOnly:
		stricter = "readOnly"
	case above.Inline && !rule.Inline:
		stricter = "inline"
	case len(rule.Namespaces) > 0 && (len(above.Namespaces) == 0 || slices.ContainsFunc(above.Namespaces, excluded)):
		stricter = "namespaces"
	default:
		return nil
	}
	return fmt.Errorf(
		"%w: host path %s: %s of its rule is stricter than that of the one for %s, which gives the same files away: "+
			"restrict that rule as well, or give it paths beside this one",
		volume.ErrForbidden,
		rule.Path,
		stricter,
		above.Path,
	)
}

func (rule Rule) hasDirectories() bool {
	return len(rule.Types) == 0 || slices.Contains(rule.Types, volume.Directory) ||
		slices.Contains(rule.Types, volume.DirectoryOrCreate)
}

// onlyDevices: the rule is for device nodes alone.
func (rule Rule) onlyDevices() bool {
	return len(rule.Types) > 0 &&
		!slices.ContainsFunc(rule.Types, func(t volume.Type) bool { return !t.IsDevice() })
}

// forbiddenTo lists the directories that the rule cannot give away.
func (r *Rules) forbiddenTo(rule Rule) []string {
	if rule.ReadOnly {
		return r.forbidden
	}
	return slices.Concat(r.forbidden, readOnlyAtMost)
}

// checkForbidden refuses what is in, or above, a forbidden directory. Errors: ErrForbidden.
func (r *Rules) checkForbidden(rule Rule, name string,
	isDevice bool,
) error { //nolint:revive // a fact, no mode
	for _, f := range r.forbiddenTo(rule) {
		if f == "/dev" && isDevice && name != f && isBelow(f, name) {
			continue
		}
		if isBelow(f, name) || isBelow(name, f) {
			return fmt.Errorf("%w: host path %s: %s is never offered%s, nor a directory above it%s",
				volume.ErrForbidden, name, f, unlessReadOnly(f), unlessDevice(f, name))
		}
	}
	return nil
}

// find is the rule for a use, or what is missing. Rules add up: one that does not fit takes nothing
// away. Errors: ErrForbidden.
func (r *Rules) find(use Use) (Rule, error) {
	var near []string
	for _, rule := range r.rules {
		if !isBelow(rule.Path, use.Path) {
			continue
		}
		if missing := rule.missing(use); missing != "" {
			near = append(near, fmt.Sprintf("the one for %s %s", rule.Path, missing))
			continue
		}
		return rule, r.checkForbidden(rule, use.Path, use.Type.IsDevice())
	}
	why := "there is none for the path or a directory above it"
	if len(near) > 0 {
		why = strings.Join(near, "; ")
	}
	return Rule{}, fmt.Errorf("%w: no hostPaths rule allows %s %s to a pod of namespace %q%s: %s",
		volume.ErrForbidden, use.Type, use.Path, use.Namespace, inlineText(use), why)
}

// unlessReadOnly completes a message about a forbidden directory.
func unlessReadOnly(name string) string {
	if slices.Contains(readOnlyAtMost, name) {
		return " unless the rule has readOnly: true"
	}
	return ""
}

// unlessDevice is what a rule for a single device is missing.
func unlessDevice(forbidden, name string) string {
	if forbidden == "/dev" && name != forbidden && isBelow(forbidden, name) {
		return "; for one device the rule needs types: [BlockDevice] or [CharDevice]"
	}
	return ""
}

func inlineText(use Use) string {
	if use.Inline {
		return " as an inline volume"
	}
	return ""
}

// missing says what the rule lacks for a use of a path below it; empty is nothing.
func (rule Rule) missing(use Use) string {
	switch {
	case len(rule.Namespaces) > 0 && use.Namespace == "":
		return fmt.Sprintf(
			"is for the namespaces %v, and the request names none: external-provisioner needs --extra-create-metadata",
			rule.Namespaces,
		)
	case len(rule.Namespaces) > 0 && !slices.Contains(rule.Namespaces, use.Namespace):
		return fmt.Sprintf("is for the namespaces %v", rule.Namespaces)
	case use.Inline && !rule.Inline:
		return "does not set inline: true"
	case len(rule.Types) > 0 && !slices.Contains(rule.Types, use.Type):
		return fmt.Sprintf("is for the types %v", rule.Types)
	case len(rule.Types) == 0 && use.Type.IsDevice():
		return "names no device types"
	case use.Type.IsDevice() && rule.Path != use.Path:
		return "is not for that single device"
	case use.Type.IsDevice() && rule.ReadOnly:
		return "is read-only, which no mount makes a device"
	default:
		return ""
	}
}

// isBelow says whether a clean path is a root or under it.
func isBelow(root, name string) bool {
	return name == root || strings.HasPrefix(name, strings.TrimSuffix(root, "/")+"/")
}
