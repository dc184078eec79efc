package output

import (
	"strings"
	"unicode"

	"k8s.io/cli-runtime/pkg/printers"
)

// Escape makes a text safe for a terminal. A node chooses its reasons, its errors and its log
// lines: a hostile one could send sequences that change the operator's terminal (CVE-2021-25743).
// ESC and CR become what kubectl prints for them. Other control characters become the replacement
// character: some terminals obey those of C1, too. Tabs and newlines stay.
func Escape(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' && r != '\n' {
			return unicode.ReplacementChar
		}
		return r
	}, printers.EscapeTerminal(text))
}
