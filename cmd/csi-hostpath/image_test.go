package main

import (
	"os/exec"
	"strings"
	"testing"
)

// An image whose driver says "unknown" cannot be told from another one. tools/release refuses that
// as well.
func TestImageIsNotBuiltWithoutAVersion(t *testing.T) {
	t.Chdir("../..")
	for version, want := range map[string]string{
		"unknown": "make image VERSION=0.1.0",
		"":        "usage: hack/image TAG VERSION",
	} {
		cmd := exec.CommandContext(t.Context(), "hack/image", "csi-hostpath:test", version)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("version %q: %v, want %q:\n%s", version, err, want, out)
		}
	}
	// The builders that do not use hack/image.
	for file, want := range map[string]string{
		"hack/cluster":          `--version "$version"`,
		"test/e2e/main_test.go": `"--version", version(ctx)`,
	} {
		text := read(t, file)
		if !strings.Contains(text, want) || strings.Contains(text, "VERSION=unknown") {
			t.Errorf("%s does not have %s, or has a default", file, want)
		}
	}
}
