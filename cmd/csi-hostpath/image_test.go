package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An image whose driver says "unknown" cannot be told from another one.
func TestImageIsNotBuiltWithoutAVersion(t *testing.T) {
	t.Chdir("../..")
	engine := filepath.Join(t.TempDir(), "engine")
	if err := os.WriteFile(engine, []byte("#!/bin/sh\necho \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]string{
		"v1.2.3":  "--build-arg VERSION=v1.2.3",
		"unknown": "make image VERSION=0.1.0",
		"":        "usage: hack/image TAG VERSION",
	} {
		cmd := exec.CommandContext(t.Context(), "hack/image", "csi-hostpath:test", version)
		cmd.Env = append(os.Environ(), "ENGINE="+engine, "IMAGE_FLAGS=")
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), want) || (err == nil) != (version == "v1.2.3") {
			t.Errorf("version %q: %v, want %q:\n%s", version, err, want, out)
		}
	}
	// The builders that do not use hack/image.
	for file, want := range map[string]string{
		"Dockerfile":            `RUN : "${VERSION:?`,
		"hack/cluster":          "--build-arg \"VERSION=$version\"",
		"test/e2e/main_test.go": `"VERSION="`,
	} {
		text := read(t, file)
		if !strings.Contains(text, want) || strings.Contains(text, "VERSION=unknown") {
			t.Errorf("%s does not have %s, or has a default", file, want)
		}
	}
}
