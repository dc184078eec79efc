package pool

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// withSuffix is a name for an entry of tmp/ or trash/ that no other is likely to have; a rename to
// a taken one fails.
func withSuffix(name string) string {
	return fmt.Sprintf("%s.%08x", name, rand.Uint32()) //nolint:gosec // not a secret
}

// withoutSuffix is the name that withSuffix was given.
func withoutSuffix(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i]
	}
	return name
}
