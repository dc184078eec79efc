package volume

import "strings"

// Clip returns a text that has at most limit bytes of s, and "…" in the place of the rest. It cuts
// no character in two.
func Clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
