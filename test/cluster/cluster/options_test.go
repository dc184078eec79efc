package cluster

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/component"
)

func TestDefaultsMakeACluster(t *testing.T) {
	t.Setenv(NameVariable, "")
	t.Setenv(CacheVariable, t.TempDir())
	t.Setenv(KubernetesVariable, "")
	var options Options
	if err := options.complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if options.Name != DefaultName || options.Nodes != DefaultNodes ||
		options.DiskPath != DefaultDiskPath || options.Kubernetes != component.DefaultKubernetes {
		t.Fatalf("defaults are %+v", options)
	}
}

func TestEveryFaultIsNamedAtOnce(t *testing.T) {
	options := Options{
		Name: "../other", Nodes: -1, DiskPath: "pools", Kubernetes: "1.1", FeatureGates: "A,B=true",
		KubeletDir: "/var/lib/../kubelet",
	}
	err := options.complete(t.Context())
	if err == nil {
		t.Fatal("faulty options were accepted")
	}
	for _, want := range []string{
		`"../other"`, "-1 nodes", `"pools"`, `"1.1"`, `gate "A"`, `"/var/lib/../kubelet"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

func TestNamesThatAreNoFolderAreRefused(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "A", "-a", strings.Repeat("a", 41)} {
		if checkName(name) == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
}

func TestDefaultDisksFitFewNodes(t *testing.T) {
	t.Setenv(CacheVariable, t.TempDir())
	for nodes := 1; nodes <= 4; nodes++ {
		options := Options{Name: "test", Nodes: nodes}
		if err := options.complete(t.Context()); err != nil {
			t.Errorf("%d nodes: %v", nodes, err)
		}
	}
}

func TestKubernetesIsTheOneAskedFor(t *testing.T) {
	for _, version := range KubernetesVersions() {
		t.Setenv(KubernetesVariable, version)
		if got := DefaultedKubernetes(""); got != version {
			t.Errorf("the environment asks for %s, got %s", version, got)
		}
	}
	if got := DefaultedKubernetes("1.36"); got != "1.36" {
		t.Errorf("asked for 1.36, got %s", got)
	}
}

func TestGivenFeatureGatesJoinTheDefaultOnes(t *testing.T) {
	t.Setenv(CacheVariable, t.TempDir())
	for given, want := range map[string]string{
		"":                      "CSIVolumeHealth=true",
		"CSIVolumeHealth=false": "CSIVolumeHealth=false",
		"A=true":                "A=true,CSIVolumeHealth=true",
	} {
		options := Options{Name: "test", Kubernetes: "1.37", FeatureGates: given}
		if err := options.complete(t.Context()); err != nil {
			t.Fatal(err)
		}
		if options.FeatureGates != want {
			t.Errorf("gates %q make %q, want %q", given, options.FeatureGates, want)
		}
	}
}

func TestCacheIsWhereItIsAskedFor(t *testing.T) {
	t.Setenv(CacheVariable, "/from/environment")
	for asked, want := range map[string]string{"": "/from/environment", "/asked": "/asked"} {
		if got, err := CacheFolder(asked); err != nil || got != want {
			t.Errorf("CacheFolder(%q) = %q, %v, want %q", asked, got, err, want)
		}
	}
	t.Setenv(CacheVariable, "")
	t.Setenv("XDG_CACHE_HOME", "/user")
	if got, err := CacheFolder(""); err != nil ||
		got != filepath.Join("/user", "csi-hostpath-cluster") {
		t.Errorf("CacheFolder of the user = %q, %v", got, err)
	}
}
