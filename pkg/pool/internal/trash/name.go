package trash

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// UniqueName returns a name in tmp/ or trash/ for something with that name. Another entry is
// unlikely to have the same name; if one has, the rename fails.
func UniqueName(name string) string {
	return fmt.Sprintf("%s.%08x", name, rand.Uint32()) //nolint:gosec // not a secret
}

// OriginalName returns the name for which an entry has its name. An entry that is deleted in place
// has its original name.
func (t *Trash) OriginalName(e Entry) string {
	if e.In != t.Dir && e.In != t.Tmp {
		return e.Name
	}
	if i := strings.LastIndexByte(e.Name, '.'); i >= 0 {
		return e.Name[:i]
	}
	return e.Name
}
