// Package hostpath opens those paths of the node that the operator has allowed. Every path comes
// from a request and is hostile.
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
	// Path is the root: absolute and clean, and none of its components is a link.
	Path string
	// ReadOnly allows no use that could write, and the driver makes nothing there.
	ReadOnly bool
	// Namespaces are those whose pods may use it; empty means all.
	Namespaces []string
	// Inline lets a pod name the path itself, without a PersistentVolume: everybody who may create
	// pods in one of the namespaces can use the path.
	Inline bool
	// Types are the types that may be requested; empty means all but devices.
	Types []volume.Type
}

// Use is a request for a path: what it is to be, and who wants it.
type Use struct {
	Path      string
	Type      volume.Type
	Namespace string
	Inline    bool
	// ReadOnly says that the caller wants the path read-only, and that the container runtime mounts
	// it so. An access mode or a mount option that is read-only does not say that: kubelet tells the
	// runtime only of readOnly (makeMounts of Kubernetes pkg/kubelet/kubelet_pods.go), and runc 1.2
	// and newer makes a mount writable unless it is told (mountToRootfs of
	// libcontainer/rootfs_linux.go).
	ReadOnly bool
}

// Rules are what the operator allows. The zero value allows nothing.
type Rules struct {
	rules     []Rule
	forbidden []string
}

// alwaysForbidden are directories that never belong to a pod: whoever can write there is root on
// the node, and some hold secrets. A rule may allow a single device below /dev.
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

// readOnlyAtMost are directories that are harmless to read. Whoever can write there is root on the
// node: root runs what is there; and kubelet, as root, follows links among the logs for everybody
// who may read logs.
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

// NewRules returns rules that never allow a directory of the system, nor one of the driver's own,
// such as a pool, nor a parent of either. Validate is for the operator's sake: a rule that it
// refuses allows no forbidden directory either.
func NewRules(rules []Rule, own ...string) *Rules {
	r := &Rules{rules: slices.Clone(rules), forbidden: slices.Concat(alwaysForbidden, own)}
	// The longest root first: that rule was written for the path.
	slices.SortStableFunc(r.rules, func(a, b Rule) int { return len(b.Path) - len(a.Path) })
	return r
}

// Validate refuses a rule that allows less, or more, than it says. Errors: ErrForbidden.
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

// checkNotUndone refuses a rule that is stricter than the rule for a directory above its own.
// Whoever may mount the directory above has what is below as well, so the stricter rule would not
// protect it. Errors: ErrForbidden.
func (rule Rule) checkNotUndone(above Rule) error {
	if rule.Path == above.Path || above.Path == "/" || !isBelow(above.Path, rule.Path) ||
		!above.hasDirectories() {
		return nil // Validate refuses a rule for /
	}
	excluded := func(namespace string) bool { return !slices.Contains(rule.Namespaces, namespace) }
	var stricter string
	switch {
	case rule.ReadOnly && !above.ReadOnly:
		stricter = "readOnly"
	case above.Inline && !rule.Inline:
		stricter = "inline"
	case len(rule.Namespaces) > 0 &&
		(len(above.Namespaces) == 0 || slices.ContainsFunc(above.Namespaces, excluded)):
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

// onlyDevices reports whether the rule is for device nodes alone.
func (rule Rule) onlyDevices() bool {
	return len(rule.Types) > 0 &&
		!slices.ContainsFunc(rule.Types, func(t volume.Type) bool { return !t.IsDevice() })
}

// forbiddenTo lists the directories that the rule cannot allow.
func (r *Rules) forbiddenTo(rule Rule) []string {
	if rule.ReadOnly {
		return r.forbidden
	}
	return slices.Concat(r.forbidden, readOnlyAtMost)
}

// checkForbidden refuses a path in a forbidden directory, or above one. Errors: ErrForbidden.
//
//nolint:revive // isDevice is a fact about the path, not a mode
func (r *Rules) checkForbidden(rule Rule, name string, isDevice bool) error {
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

// find returns the first rule that allows a use; a rule that does not allow it forbids nothing that
// another one allows. Errors: ErrForbidden, which says what each rule for the path lacks.
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

// checkReadOnly refuses a use that could write where the rule that allows it is read-only. Errors:
// ErrForbidden, which says what to write into the pod.
func (rule Rule) checkReadOnly(use Use) error {
	if !rule.ReadOnly || use.ReadOnly {
		return nil
	}
	return fmt.Errorf(
		"%w: host path %s is read-only by the hostPaths rule for %s, and the pod's volume is not: %s",
		volume.ErrForbidden,
		use.Path,
		rule.Path,
		volume.ReadOnlyRemedy(use.Inline),
	)
}

// unlessReadOnly completes a message about a forbidden directory.
func unlessReadOnly(name string) string {
	if slices.Contains(readOnlyAtMost, name) {
		return " unless the rule has readOnly: true"
	}
	return ""
}

// unlessDevice completes a message about a device: it says what the rule lacks.
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

// missing returns what the rule lacks to allow a use of a path below it; empty if it allows the
// use.
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

// isBelow reports whether a clean path is root or below it.
func isBelow(root, name string) bool {
	return name == root || strings.HasPrefix(name, strings.TrimSuffix(root, "/")+"/")
}
