//go:build vm

package guest

import (
	"os"
	"strings"
	"testing"
)

// outcomeEnv lets the tests below do what their names say: only package vm's own tests ask for it.
const outcomeEnv = "VM_TEST_OUTCOME"

func TestOutcomePass(t *testing.T) { t.Log("passed") }

func TestOutcomeFail(t *testing.T) {
	if asked("fail") {
		t.Error("as asked")
	}
}

func TestOutcomeSkip(t *testing.T) {
	if asked("skip") {
		t.Skip("as asked")
	}
}

func TestOutcomeHang(t *testing.T) {
	if asked("hang") {
		t.Log("for ever")
		select {}
	}
}

func asked(what string) bool { return strings.Contains(os.Getenv(outcomeEnv), what) }
