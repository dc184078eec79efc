package deploy_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func presetPath(name string) string {
	return filepath.Join(chart, "presets", "values-"+name+".yaml")
}

// presetFiles are the chart's values for platforms, by their names.
func presetFiles(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(presetPath("*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("presets: %q, %v", files, err)
	}
	presets := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "values-"), ".yaml")
		presets[name] = string(text)
	}
	return presets
}

// Where each platform has kubelet's directory, and where the pool is: docs/platforms.md has the
// sources. The chart refuses what its schema does not know. Both deployments can be chosen.
func TestPresetsHaveThePathsOfTheirPlatforms(t *testing.T) {
	const kubelet, pool = "/var/lib/kubelet", "/var/lib/csi-hostpath/pools/default"
	want := map[string][2]string{
		"default-class": {kubelet, pool},
		"k0s":           {"/var/lib/k0s/kubelet", pool},
		"microk8s":      {"/var/snap/microk8s/common/var/lib/kubelet", pool},
		"minikube":      {kubelet, "/data/csi-hostpath/default"},
		"openshift":     {kubelet, pool},
		"talos":         {kubelet, "/var/mnt/csi-hostpath"},
	}
	presets := presetFiles(t)
	if got, want := slices.Sorted(maps.Keys(presets)), slices.Sorted(maps.Keys(want)); !slices.Equal(
		got, want,
	) {
		t.Errorf("presets %q, want %q", got, want)
	}
	for name := range presets {
		for _, deployment := range []string{"central", "node"} {
			t.Run(name+"/"+deployment, func(t *testing.T) {
				// As docs/platforms.md says: one file for the platform, one for the default class.
				objects, err := helm(t, "deployment: "+deployment, "--values", presetPath(name), "--values",
					presetPath("default-class"))
				if err != nil {
					t.Fatal(err)
				}
				cfg := checkDriverTakes(t, objects)
				if len(cfg.Pools) != 1 {
					t.Fatalf("%d pools", len(cfg.Pools))
				}
				if got := [2]string{cfg.KubeletDir, cfg.Pools[0].Path}; got != want[name] {
					t.Errorf("kubelet's directory and the pool are %q, want %q", got, want[name])
				}
				checkPathsOfPods(t, objects, cfg.KubeletDir, cfg.Pools[0].Path)
			})
		}
	}
}

// checkPathsOfPods looks for paths of the node that are another platform's: a pod that mounts
// kubelet's usual directory does not start where the system is read-only and kubelet has another.
func checkPathsOfPods(t *testing.T, objects []object, kubeletDir, pool string) {
	t.Helper()
	for name, pod := range podsOf(objects) {
		for _, v := range pod.Spec.Template.Spec.Volumes {
			if v.HostPath == nil {
				continue
			}
			path := v.HostPath.Path
			if path != "/dev" && path != filepath.Dir(pool) && path != kubeletDir &&
				!strings.HasPrefix(path, kubeletDir+"/plugins/") {
				t.Errorf("%s mounts %s of the node", name, path)
			}
		}
	}
}

// Helm replaces a list as a whole: the preset must repeat all classes.
func TestPresetMakesTheFirstClassTheDefaultAndKeepsTheOthers(t *testing.T) {
	classes := func(objects []object) map[string]object {
		found := map[string]object{}
		for _, o := range objects {
			if o.Kind == "StorageClass" {
				found[o.Metadata.Name] = o
			}
		}
		return found
	}
	const isDefault = "storageclass.kubernetes.io/is-default-class"
	chartsOwn := classes(render(t, ""))
	got := classes(render(t, presetFiles(t)["default-class"]))
	for name, class := range chartsOwn {
		preset, ok := got[name]
		if !ok || !maps.Equal(preset.Parameters, class.Parameters) {
			t.Errorf("class %s has the parameters %v, the chart's has %v", name, preset.Parameters,
				class.Parameters)
		}
		wantDefault := map[bool]string{true: "true"}[name == "csi-hostpath"]
		if value := preset.Metadata.Annotations[isDefault]; value != wantDefault {
			t.Errorf("class %s: %s is %q, want %q", name, isDefault, value, wantDefault)
		}
	}
	if len(got) != len(chartsOwn) {
		t.Errorf("%d classes, the chart has %d", len(got), len(chartsOwn))
	}
}

// OpenShift admits a pod if its service account may use a SecurityContextConstraints that fits.
func TestOpenShiftAdmitsEachPodOfTheChart(t *testing.T) {
	const privileged, nonroot = "system:openshift:scc:privileged", "system:openshift:scc:nonroot-v2"
	for _, values := range []string{everything, nodeEverything} {
		values = strings.TrimSuffix(values, "}") + ", openshift: {enabled: true}}"
		objects := render(t, values)
		may := map[string]string{}
		for _, o := range objects {
			if o.Kind != "RoleBinding" || !strings.HasPrefix(o.RoleRef.Name, "system:openshift:scc:") {
				continue
			}
			for _, s := range o.Subjects {
				may[s.Name] = o.RoleRef.Name
			}
		}
		for name, pod := range podsOf(objects) {
			want := nonroot
			if pod.Kind == "DaemonSet" {
				want = privileged
			}
			account := pod.Spec.Template.Spec.ServiceAccountName
			if got := may[account]; got != want {
				t.Errorf("pods of %s, service account %q, may use %q, want %q", name, account, got, want)
			}
		}
	}
	for _, o := range render(t, "") {
		if strings.HasPrefix(o.RoleRef.Name, "system:openshift:") {
			t.Errorf("without openshift.enabled there is %s %s", o.Kind, o.Metadata.Name)
		}
	}
}

func TestOpenShiftIsToldWhoMayHaveInlineVolumes(t *testing.T) {
	for values, want := range map[string]string{
		"{openshift: {enabled: true, inlineVolumeProfile: restricted}}": "restricted",
		"{openshift: {enabled: true}}":                                  "",
		"{openshift: {inlineVolumeProfile: restricted}}":                "",
	} {
		labels := only(t, render(t, values), "CSIDriver").Metadata.Labels
		if got := labels["security.openshift.io/csi-ephemeral-volume-profile"]; got != want {
			t.Errorf("%s: profile %q, want %q", values, got, want)
		}
	}
}
