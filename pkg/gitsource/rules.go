package gitsource

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Rule allows content of the repositories at and below a prefix.
type Rule struct {
	Prefix volume.GitURL
	// Namespaces are those whose pods may show it; empty means all.
	Namespaces []string
	// MaxSizeBytes bounds the size of the content.
	MaxSizeBytes int64
	// MinPeriod bounds how often a server is asked.
	MinPeriod time.Duration
	// Addresses may be dialled although they are loopback, link-local or the API server's.
	Addresses []netip.Prefix
}

// Use is a request for content: what, and who wants it.
type Use struct {
	Source    volume.GitSource
	Namespace string
}

// Rules are what the operator allows. The zero value allows nothing.
type Rules struct{ rules []Rule }

// NewRules returns rules that are asked in that order.
func NewRules(rules []Rule) *Rules { return &Rules{rules: slices.Clone(rules)} }

func (r *Rules) isEmpty() bool { return len(r.rules) == 0 }

// Check reports whether the rules allow a use. Errors: ErrForbidden.
func (r *Rules) Check(use Use) error {
	_, err := r.find(use)
	return err
}

// find returns the first rule that allows a use; a rule that does not allow it forbids nothing that
// another one allows. Errors: ErrForbidden, which says what each rule for the URL lacks.
func (r *Rules) find(use Use) (Rule, error) {
	if r.isEmpty() {
		return Rule{}, fmt.Errorf("%w: content of git is switched off on this node: "+
			"the operator's configuration has no gitSources (docs/git.md)", volume.ErrForbidden)
	}
	var near []string
	for _, rule := range r.rules {
		if !rule.Prefix.Covers(use.Source.URL) {
			continue
		}
		missing := rule.missing(use)
		if missing == "" {
			return rule, nil
		}
		near = append(near, fmt.Sprintf("the one for %s %s", rule.Prefix, missing))
	}
	why := "there is none for the URL or for one above it"
	if len(near) > 0 {
		why = strings.Join(near, "; ")
	}
	return Rule{}, fmt.Errorf("%w: no gitSources rule allows %s to a pod of namespace %q: %s",
		volume.ErrForbidden, use.Source.URL, use.Namespace, why)
}

// missing returns what the rule lacks to allow a use of a URL that it covers; empty if it allows
// the use. The size of a claim that is not known yet is no reason.
func (rule Rule) missing(use Use) string {
	source := use.Source
	switch {
	case len(rule.Namespaces) > 0 && use.Namespace == "":
		return fmt.Sprintf(
			"is for the namespaces %v, and the request names none: external-provisioner needs --extra-create-metadata",
			rule.Namespaces,
		)
	case len(rule.Namespaces) > 0 && !slices.Contains(rule.Namespaces, use.Namespace):
		return fmt.Sprintf("is for the namespaces %v", rule.Namespaces)
	case source.SizeBytes > rule.MaxSizeBytes:
		return fmt.Sprintf("allows at most %d bytes (maxSize), and size is %d", rule.MaxSizeBytes,
			source.SizeBytes)
	case source.Period > 0 && source.Period < rule.MinPeriod:
		return fmt.Sprintf("allows a period of %v or more (minPeriod), and period is %v", rule.MinPeriod,
			source.Period)
	default:
		return ""
	}
}
