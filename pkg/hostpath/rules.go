// Package hostpath opens paths of the host that an operator has allowed, and nothing else. Where it stands in the driver, every
// path is a hostile one.
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
	ReadOnly bool
	// Namespaces are those whose pods may use it; none is all of them.
	Namespaces []string
	// Inline lets a pod name the path itself, without a PersistentVolume: anybody who may create pods there has the path.
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

// alwaysForbidden are directories that are root on the node, whoever writes to them; a single device below /dev may be allowed.
var alwaysForbidden = []string{
	"/boot", "/dev", "/etc", "/proc", "/root", "/run/containerd", "/run/crio", "/run/docker.sock", "/sys",
	"/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/etcd", "/var/lib/kubelet",
	"/var/run/containerd", "/var/run/crio", "/var/run/docker.sock",
}

// NewRules makes rules that never allow a directory of the driver's own, such as its pools, or the system's, or a parent of one.
// Errors: ErrForbidden, naming the rule; every rule at fault is in it.
func NewRules(rules []Rule, own ...string) (*Rules, error) {
	r := &Rules{rules: slices.Clone(rules), forbidden: append(slices.Clone(alwaysForbidden), own...)}
	// The longest root first: it is the one that was written for the path.
	slices.SortStableFunc(r.rules, func(a, b Rule) int { return len(b.Path) - len(a.Path) })
	for _, rule := range rules {
		if err := r.checkRule(rule); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Rules) checkRule(rule Rule) error {
	if rule.Path == "/" || !path.IsAbs(rule.Path) || path.Clean(rule.Path) != rule.Path {
		return fmt.Errorf("%w: host path %q: a root is absolute and clean, and not /", volume.ErrForbidden, rule.Path)
	}
	return r.checkForbidden(rule.Path, rule.onlyDevices())
}

// onlyDevices: the rule is for device nodes alone.
func (rule Rule) onlyDevices() bool {
	return len(rule.Types) > 0 && !slices.ContainsFunc(rule.Types, func(t volume.Type) bool { return !t.IsDevice() })
}

// checkForbidden refuses what is in, or above, a forbidden directory. Errors: ErrForbidden.
func (r *Rules) checkForbidden(name string, device bool) error {
	for _, f := range r.forbidden {
		if f == "/dev" && device && isBelow(f, name) && name != f {
			continue
		}
		if isBelow(f, name) || isBelow(name, f) {
			return fmt.Errorf("%w: host path %s: %s is never offered, nor a directory above it", volume.ErrForbidden, name, f)
		}
	}
	return nil
}

// find is the rule for a use, or what is missing. Errors: ErrForbidden.
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
		return rule, nil
	}
	why := "there is none for the path or a directory above it"
	if len(near) > 0 {
		why = strings.Join(near, "; ")
	}
	return Rule{}, fmt.Errorf("%w: no hostPaths rule allows %s %s to a pod of namespace %q%s: %s",
		volume.ErrForbidden, use.Type, use.Path, use.Namespace, inlineText(use), why)
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
	default:
		return ""
	}
}

// isBelow says whether a clean path is a root or under it.
func isBelow(root, name string) bool {
	return name == root || strings.HasPrefix(name, strings.TrimSuffix(root, "/")+"/")
}
