package gates

import (
	"strings"
	"testing"
)

func TestLaterListHasTheLastWord(t *testing.T) {
	parsed, err := Parse("B=true,A=true", "", "A=false")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(parsed.Flags(), " "); got != "--feature-gates=A=false,B=true" {
		t.Errorf("flags %q", got)
	}
	if got := parsed.YAML(); got != "{A: false, B: true}" {
		t.Errorf("YAML %q", got)
	}
}

func TestNoGatesAreNoFlag(t *testing.T) {
	if got := Gates(nil); len(got.Flags()) != 0 || got.YAML() != "{}" {
		t.Errorf("flags %q, YAML %q", got.Flags(), got.YAML())
	}
}

func TestFaultyGatesAreRefused(t *testing.T) {
	for _, list := range []string{"A", "A=", "=true", "A=perhaps", "A=true,B"} {
		if _, err := Parse(list); err == nil {
			t.Errorf("%q was accepted", list)
		}
	}
}
