// Package gates holds feature gates of Kubernetes.
package gates

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Gates say which features are on or off. Nil is none.
type Gates map[string]bool

// Parse reads lists of NAME=true or NAME=false, separated by commas. The last one of a name counts.
func Parse(lists ...string) (Gates, error) {
	parsed := Gates{}
	for _, list := range lists {
		for _, gate := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
			name, value, _ := strings.Cut(gate, "=")
			on, err := strconv.ParseBool(value)
			if err != nil || name == "" {
				return nil, fmt.Errorf("feature gate %q: write NAME=true or NAME=false", gate)
			}
			parsed[name] = on
		}
	}
	return parsed, nil
}

// String is what Parse reads, sorted.
func (g Gates) String() string { return g.join("=", ",") }

// YAML is the map of a configuration file.
func (g Gates) YAML() string { return "{" + g.join(": ", ", ") + "}" }

// Flags are the flags of a component of Kubernetes.
func (g Gates) Flags() []string {
	if len(g) == 0 {
		return nil
	}
	return []string{"--feature-gates=" + g.String()}
}

func (g Gates) join(is, and string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(g)) {
		list = append(list, name+is+strconv.FormatBool(g[name]))
	}
	return strings.Join(list, and)
}
