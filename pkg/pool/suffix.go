package pool

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// withSuffix returns a name for an entry of tmp/ or trash/. Another entry is unlikely to have the
// same name; if one has, the rename fails.
func withSuffix(name string) string {
	return fmt.Sprintf("%s.%08x", name, rand.Uint32()) //nolint:gosec // not a secret
}

// withoutSuffix returns the name that was passed to withSuffix.
func withoutSuffix(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i]
	}
	return name
}
