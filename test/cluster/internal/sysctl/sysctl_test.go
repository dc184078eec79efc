package sysctl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatIsTooLowIsRaisedAndSaid(t *testing.T) {
	for _, tc := range []struct{ value, want, says string }{
		{"128\n", "1024", "from 128 to 1024"},
		{"4096\n", "4096\n", ""},
	} {
		path := filepath.Join(t.TempDir(), "setting") // not the machine's: other tests need that one
		if err := os.WriteFile(path, []byte(tc.value), 0o600); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		err := raise(path, 1024, func(format string, args ...any) { fmt.Fprintf(&said, format, args...) })
		got, readErr := os.ReadFile(path)
		if err != nil || readErr != nil || string(got) != tc.want ||
			!strings.Contains(said.String(), tc.says) || (tc.says == "") != (said.String() == "") {
			t.Errorf("%q became %q, want %q; it said %q; %v, %v", tc.value, got, tc.want, &said, err,
				readErr)
		}
	}
}
