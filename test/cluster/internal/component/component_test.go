package component

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestLinkFlagsCarryTheVersion(t *testing.T) {
	c := Component{
		VersionVariables: []string{"a.full={version}", "a.major={major}", "a.minor={minor}"},
	}
	want := "-s -w -X a.full=v1.36.3 -X a.major=1 -X a.minor=36"
	if got := c.linkFlags("v1.36.3"); got != want {
		t.Fatalf("linkFlags = %q, want %q", got, want)
	}
}

// The folder of each component's pins is there, for every version.
func TestEveryComponentIsPinned(t *testing.T) {
	for _, version := range KubernetesVersions() {
		for _, c := range append(All(version), Conformance(version), ObjectStore(), Velero()) {
			pins := filepath.Join("..", "..", "components", c.pins(), "go.mod")
			if _, err := os.Stat(pins); err != nil {
				t.Errorf("Kubernetes %s, %s: %v", version, c.Name, err)
			}
		}
	}
}

// newBuilder returns a builder over one small module of its own.
func newBuilder(t *testing.T) (Builder, Component) {
	t.Helper()
	source := t.TempDir()
	files := map[string]string{
		"go.mod":  "module example.test/tiny\n\ngo 1.26.0\n",
		"go.sum":  "",
		"main.go": "package main\n\nfunc main() {}\n",
	}
	for name, content := range files {
		path := filepath.Join(source, "tiny", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	component := Component{
		Name:     "tiny",
		Module:   "example.test/tiny",
		Programs: []Program{{"tiny", "example.test/tiny"}},
		Sources:  []string{"main.go"},
	}
	return Builder{Source: source, Cache: t.TempDir(), Progress: t.Logf}, component
}

func TestSecondBuildComesFromTheCache(t *testing.T) {
	builder, component := newBuilder(t)
	first, err := builder.Build(context.Background(), component)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.Program("tiny")); err != nil {
		t.Fatal(err)
	}
	builder.Progress = func(string, ...any) { t.Error("the second build was not from the cache") }
	second, err := builder.Build(context.Background(), component)
	if err != nil || second.Folder != first.Folder {
		t.Fatalf("second build in %s, %v, want %s", second.Folder, err, first.Folder)
	}
}

func TestChangedPinsAndSourcesChangeTheKey(t *testing.T) {
	builder, component := newBuilder(t)
	for name, content := range map[string]string{
		"go.sum":  "example.test/x v1.0.0 h1:x\n",
		"main.go": "package main\n\nfunc main() { println() }\n",
	} {
		before, err := builder.key(context.Background(), component, "v1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(builder.Source, "tiny", name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		after, err := builder.key(context.Background(), component, "v1.0.0")
		if err != nil || after == before {
			t.Fatalf("%s: key %s stayed %s, %v", name, before, after, err)
		}
	}
}
