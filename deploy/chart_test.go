// Package deploy_test holds the chart, and the manifests rendered from it, to what the driver and a
// careful operator expect.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	manifestFile = "kubernetes/csi-hostpath.yaml"
	nodeFile     = "kubernetes/csi-hostpath-node.yaml"
	chart        = "helm/csi-hostpath"
	helmProgram  = "../bin/tools/helm"
)

// object is what the tests look at in a manifest; unknown fields are left out.
type object struct {
	Kind       string            `yaml:"kind"`
	Metadata   metadata          `yaml:"metadata"`
	Data       map[string]string `yaml:"data"`
	Rules      []rule            `yaml:"rules"`
	Parameters map[string]string `yaml:"parameters"`
	Spec       struct {
		PodInfoOnMount    bool `yaml:"podInfoOnMount"`
		RequiresRepublish bool `yaml:"requiresRepublish"`
		// An older API server refuses these two.
		NodeAllocatableUpdatePeriodSeconds *int  `yaml:"nodeAllocatableUpdatePeriodSeconds"`
		PreventPodSchedulingIfMissing      *bool `yaml:"preventPodSchedulingIfMissing"`

		VolumeLifecycleModes []string `yaml:"volumeLifecycleModes"`
		// A service's.
		ClusterIP                string `yaml:"clusterIP"` //nolint:tagliatelle // Kubernetes' name
		PublishNotReadyAddresses bool   `yaml:"publishNotReadyAddresses"`
		// Volumes are a pod's own.
		Volumes []podVolume `yaml:"volumes"`

		Template struct {
			Metadata metadata `yaml:"metadata"`
			Spec     podSpec  `yaml:"spec"`
		} `yaml:"template"`
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		} `yaml:"selector"`
		UpdateStrategy struct {
			RollingUpdate map[string]string `yaml:"rollingUpdate"`
		} `yaml:"updateStrategy"`

		admissionPolicy `yaml:",inline"`
		networkPolicy   `yaml:",inline"`
		alerts          `yaml:",inline"`
		monitor         `yaml:",inline"`
	} `yaml:"spec"`
	RoleRef              metadata   `yaml:"roleRef"`
	Subjects             []metadata `yaml:"subjects"`
	Provisioner          string     `yaml:"provisioner"`
	AllowVolumeExpansion bool       `yaml:"allowVolumeExpansion"`
	MountOptions         []string   `yaml:"mountOptions"`
}

type metadata struct {
	Name        string            `yaml:"name"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

type rule struct {
	APIGroups     []string `yaml:"apiGroups"`
	Resources     []string `yaml:"resources"`
	ResourceNames []string `yaml:"resourceNames"`
	Verbs         []string `yaml:"verbs"`
}

type podSpec struct {
	ServiceAccountName            string      `yaml:"serviceAccountName"`
	AutomountServiceAccountToken  *bool       `yaml:"automountServiceAccountToken"`
	EnableServiceLinks            *bool       `yaml:"enableServiceLinks"`
	HostNetwork                   bool        `yaml:"hostNetwork"`
	HostIPC                       bool        `yaml:"hostIPC"` //nolint:tagliatelle // Kubernetes' name
	HostPID                       bool        `yaml:"hostPID"` //nolint:tagliatelle // Kubernetes' name
	TerminationGracePeriodSeconds int         `yaml:"terminationGracePeriodSeconds"`
	InitContainers                []container `yaml:"initContainers"`
	Containers                    []container `yaml:"containers"`
	Volumes                       []podVolume `yaml:"volumes"`
}

type container struct {
	Name            string                       `yaml:"name"`
	Image           string                       `yaml:"image"`
	Args            []string                     `yaml:"args"`
	Ports           []containerPort              `yaml:"ports"`
	SecurityContext map[string]any               `yaml:"securityContext"`
	Resources       map[string]map[string]string `yaml:"resources"`
	VolumeMounts    []volumeMount                `yaml:"volumeMounts"`
}

type containerPort struct {
	Name          string `yaml:"name"`
	ContainerPort int    `yaml:"containerPort"`
}

type volumeMount struct {
	Name        string `yaml:"name"`
	MountPath   string `yaml:"mountPath"`
	Propagation string `yaml:"mountPropagation"`
	ReadOnly    bool   `yaml:"readOnly"`
}

type podVolume struct {
	Name     string `yaml:"name"`
	HostPath *struct {
		Path string `yaml:"path"`
		Type string `yaml:"type"`
	} `yaml:"hostPath"`
	Projected struct {
		Sources []struct {
			ServiceAccountToken *struct {
				Audience string `yaml:"audience"`
			} `yaml:"serviceAccountToken"`
		} `yaml:"sources"`
	} `yaml:"projected"`
	CSI *struct {
		Driver           string            `yaml:"driver"`
		VolumeAttributes map[string]string `yaml:"volumeAttributes"`
	} `yaml:"csi"`
}

func parse(t *testing.T, text []byte) []object {
	t.Helper()
	var objects []object
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
}

func manifests(t *testing.T) []object {
	t.Helper()
	return manifestsIn(t, manifestFile)
}

func manifestsIn(t *testing.T, file string) []object {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// only is the one object of a kind.
func only(t *testing.T, objects []object, kind string) object {
	t.Helper()
	var found []object
	for _, o := range objects {
		if o.Kind == kind {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of kind %s", len(found), kind)
	}
	return found[0]
}

// helm renders the chart with further values and arguments.
func helm(t *testing.T, values string, args ...string) ([]object, error) {
	t.Helper()
	if _, err := os.Stat(helmProgram); err != nil {
		t.Skip("needs Helm: run 'make tools'")
	}
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), helmProgram, append([]string{
		"template", "test", chart, "--namespace", "test", "--values", file,
	}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, errors.New(stderr.String())
	}
	return parse(t, stdout.Bytes()), nil
}

func render(t *testing.T, values string) []object {
	t.Helper()
	objects, err := helm(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func TestClassesGrowUnlessTheyArePathsOfTheNode(t *testing.T) {
	objects := render(t, "storageClasses: [{name: a}, {name: b, allowVolumeExpansion: false}, "+
		"{name: c, parameters: {path: /srv/c, type: Directory}}]")
	got := map[string]bool{}
	for _, o := range objects {
		if o.Kind == "StorageClass" {
			got[o.Metadata.Name] = o.AllowVolumeExpansion
		}
	}
	if want := map[string]bool{"a": true, "b": false, "c": false}; !maps.Equal(got, want) {
		t.Errorf("classes that grow: %v, want %v", got, want)
	}
}

// What pkg/lifecycle reads is an annotation: it can be given to a class that exists.
func TestClassMayGiveUpTheVolumesOfDeletedNodes(t *testing.T) {
	got := map[string]map[string]string{}
	for _, o := range render(t, "{driverName: local.example.com, storageClasses: "+
		"[{name: a, nodeGone: release}, {name: b, isDefault: true, nodeGone: release}, {name: c}]}") {
		if o.Kind == "StorageClass" {
			got[o.Metadata.Name] = o.Metadata.Annotations
		}
	}
	const isDefault = "storageclass.kubernetes.io/is-default-class"
	for _, annotations := range got {
		delete(annotations, "kubernetes.io/description")
	}
	want := map[string]map[string]string{
		"a": {"local.example.com/node-gone": "release"},
		"b": {"local.example.com/node-gone": "release", isDefault: "true"},
		"c": {},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// kubectl describe says of each class whether the sizes of its claims hold.
func TestClassSaysWhetherSizesAreEnforced(t *testing.T) {
	for parameters, want := range map[string]string{
		"{}":                                      "Directories on the node's disk. Sizes are enforced where",
		"{type: FileOrCreate}":                    "Files on the node's disk. Sizes are enforced where",
		"{backing: directory}":                    "and only counted elsewhere.",
		"{backing: image}":                        "Images on the node's disk. Sizes are enforced.",
		"{csi.storage.k8s.io/fstype: xfs}":        "Images on the node's disk. Sizes are enforced.",
		"{backing: enforced}":                     "images elsewhere. Sizes are enforced.",
		"{path: /srv/c, type: Directory}":         "Its size is not counted.",
		"{backing: image}, description: As I say": "As I say",
	} {
		for _, o := range render(t, "storageClasses: [{name: a, parameters: "+parameters+"}]") {
			got := o.Metadata.Annotations["kubernetes.io/description"]
			if o.Kind == "StorageClass" && !strings.Contains(got, want) {
				t.Errorf("a class with %s says %q, want %q", parameters, got, want)
			}
		}
	}
}

// Kubernetes lets nobody change a class's parameters, also not by helm upgrade: what an installed
// chart has given a class stays, so the chart has a class of its own for enforced sizes.
func TestDefaultClassKeepsItsParameters(t *testing.T) {
	for _, o := range render(t, "") {
		want := map[string]string{"type": "DirectoryOrCreate"}
		if o.Kind == "StorageClass" && o.Metadata.Name == "csi-hostpath" &&
			!maps.Equal(o.Parameters, want) {
			t.Errorf("the class has parameters %v, want %v", o.Parameters, want)
		}
	}
}

// Kubernetes lets nobody change a class's parameters: a list of classes that leaves the default
// type out, as that of docs/install.md does, would make an upgrade fail.
func TestClassWithoutTypeIsTheDefaultOne(t *testing.T) {
	parameters := func(values string) map[string]map[string]string {
		classes := map[string]map[string]string{}
		for _, o := range render(t, values) {
			if o.Kind == "StorageClass" {
				classes[o.Metadata.Name] = o.Parameters
			}
		}
		return classes
	}
	got := parameters(
		"storageClasses: [{name: csi-hostpath}, {name: csi-hostpath-enforced, parameters: {backing: enforced}}, " +
			"{name: csi-hostpath-file, parameters: {type: FileOrCreate}}, " +
			"{name: csi-hostpath-restore, volumeBindingMode: Immediate}]",
	)
	if want := parameters(""); !reflect.DeepEqual(got, want) {
		t.Errorf("classes have parameters %v, those of the default values %v", got, want)
	}
}

// What the snapshot API consists of is there only when asked for, and stays when the chart goes.
func TestSnapshotsAreOfferedWhenAskedFor(t *testing.T) {
	kinds := func(values string) map[string]int {
		n := map[string]int{}
		for _, o := range render(t, values) {
			n[o.Kind]++
			if o.Kind == "CustomResourceDefinition" &&
				o.Metadata.Annotations["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s goes with the chart", o.Metadata.Name)
			}
		}
		return n
	}
	without, with := kinds(""), kinds(everything)
	for kind, want := range map[string]int{"VolumeSnapshotClass": 1, "CustomResourceDefinition": 3, "Deployment": 1} {
		if more := with[kind] - without[kind]; more != want {
			t.Errorf("snapshots add %d of kind %s, want %d", more, kind, want)
		}
	}
}

// With the gate on, the snapshotter and the snapshot controller wait for the API.
func TestGroupSnapshotsAreOfferedWhenAskedFor(t *testing.T) {
	for values, want := range map[string]string{
		everything: "CSIVolumeGroupSnapshot=false",
		"{snapshotter: {enabled: true, groupSnapshots: true}, snapshotController: {enabled: true, " +
			"crds: true}}": "CSIVolumeGroupSnapshot=true",
	} {
		var classes, definitions, gates int
		for _, o := range render(t, values) {
			switch o.Kind {
			case "VolumeGroupSnapshotClass":
				classes++
			case "CustomResourceDefinition":
				definitions++
			}
			for _, c := range o.Spec.Template.Spec.Containers {
				for _, arg := range c.Args {
					if strings.Contains(arg, want) {
						gates++
					}
				}
			}
		}
		if on := strings.HasSuffix(want, "true"); gates != 2 || (classes == 1) != on ||
			(definitions == 6) != on {
			t.Errorf("%s is in %d containers, and there are %d classes and %d definitions", want, gates,
				classes, definitions)
		}
	}
}

func TestDriverAcceptsWhatTheChartTellsIt(t *testing.T) {
	for name, values := range map[string]string{
		"defaults": "",
		"node":     node,
		"everything": `
driverName: local.example.com
kubeletDir: /var/lib/k0s/kubelet
driver: {loggingFormat: json, logLevel: 5, shutdownGraceSeconds: 600}
config:
  maxVolumesPerNode: 2147483647
  pools:
    - {name: fast, path: /data/nvme, default: true, requireMountpoint: true, quota: "off",
       reserve: 10Gi, allowMultiNode: true}
    - {name: big, path: /mnt/hdd, optional: true, overcommit: 2.5, trashRetention: 24h,
       reserve: 1048576}
  hostPaths:
    - {path: /srv/shared, namespaces: [team-a], inline: true, types: [Directory, File]}
    - {path: /var/log, readOnly: true}
    - {path: /dev/fuse, types: [CharDevice]}
storageClasses:
  - {name: shared, parameters: {path: /srv/shared, type: Directory}}
`,
	} {
		t.Run(name, func(t *testing.T) { checkDriverTakes(t, render(t, values)) })
	}
}

// checkDriverTakes: the driver accepts its flags, its file and the classes, and sees its pools. It
// returns what the driver is told.
func checkDriverTakes(t *testing.T, objects []object) config.Config {
	t.Helper()
	daemonSet := only(t, objects, "DaemonSet")
	args := daemonSet.Spec.Template.Spec.Containers[0].Args
	if args[0] != "serve" {
		t.Fatalf("arguments %q", args)
	}
	file := filepath.Join(t.TempDir(), "driver.yaml")
	if err := os.WriteFile(file, []byte(configOf(t, objects)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODE_NAME", "node-1")
	flags, logging := config.NewFlags(), command.NewLoggingFlags()
	set := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	flags.Register(set)
	logging.Register(set)
	if err := set.Parse(append(args[1:], "--config="+file)); err != nil {
		t.Fatal(err)
	}
	cfg, err := flags.Load()
	if err != nil {
		t.Fatal(err)
	}
	grace := daemonSet.Spec.Template.Spec.TerminationGracePeriodSeconds
	if float64(grace) <= cfg.ShutdownGrace.Seconds() {
		t.Errorf("the pod has %d s to end, its calls have %v", grace, cfg.ShutdownGrace)
	}
	for _, class := range objects {
		if class.Kind == "StorageClass" {
			checkClass(t, class, cfg.DriverName)
		}
	}
	seesPools(t, daemonSet.Spec.Template.Spec, cfg)
	return cfg
}

// configOf is the driver's configuration file. The controller has a ConfigMap of its own.
func configOf(t *testing.T, objects []object) string {
	t.Helper()
	for _, o := range objects {
		if text := o.Data["driver.yaml"]; o.Kind == "ConfigMap" && text != "" {
			return text
		}
	}
	t.Fatal("no ConfigMap has the driver's configuration")
	return ""
}

func checkClass(t *testing.T, class object, driverName string) {
	t.Helper()
	if class.Provisioner != driverName {
		t.Errorf("class %s is of driver %s", class.Metadata.Name, class.Provisioner)
	}
	if _, err := volume.ParseParameters(withoutProvisioners(class.Parameters)); err != nil {
		t.Errorf("class %s: %v", class.Metadata.Name, err)
	}
	if _, err := mount.ParseOptions(class.MountOptions); err != nil {
		t.Errorf("class %s: %v", class.Metadata.Name, err)
	}
}

// withoutProvisioners is what is left of a class's parameters for the driver.
func withoutProvisioners(parameters map[string]string) map[string]string {
	left := maps.Clone(parameters)
	delete(left, provisionersOwn)
	return left
}

// checkInline: the driver takes what a pod says of its own volumes.
func checkInline(t *testing.T, pod object, driverName string) {
	t.Helper()
	for _, v := range pod.Spec.Volumes {
		if v.CSI == nil {
			continue
		}
		attributes := maps.Clone(v.CSI.VolumeAttributes)
		attributes[volume.AttrEphemeral] = "true"
		if _, err := volume.ParseAttributes(attributes, quantity.Parse); err != nil ||
			v.CSI.Driver != driverName {
			t.Errorf("pod %s, volume %s of driver %s: %v", pod.Metadata.Name, v.Name, v.CSI.Driver, err)
		}
	}
}

// seesPools: the container has the directory above each pool under the node's own path, and
// kubelet's with what it mounts there.
func seesPools(t *testing.T, pod podSpec, cfg config.Config) {
	t.Helper()
	propagation := map[string]string{}
	for _, m := range pod.Containers[0].VolumeMounts {
		for _, v := range pod.Volumes {
			if v.Name == m.Name && v.HostPath != nil && v.HostPath.Path == m.MountPath {
				propagation[m.MountPath] = m.Propagation
			}
		}
	}
	if propagation[cfg.KubeletDir] != "Bidirectional" {
		t.Errorf("kubelet's directory is mounted as %q", propagation[cfg.KubeletDir])
	}
	for _, p := range cfg.Pools {
		if got := propagation[filepath.Dir(p.Path)]; got != "HostToContainer" {
			t.Errorf("pool %s: its parent directory is mounted as %q", p.Path, got)
		}
	}
}

func TestNodeNeverHasTwoDrivers(t *testing.T) {
	for _, file := range []string{manifestFile, nodeFile} {
		got := only(t, manifestsIn(t, file), "DaemonSet").Spec.UpdateStrategy.RollingUpdate
		if want := (map[string]string{"maxUnavailable": "1", "maxSurge": "0"}); !maps.Equal(got, want) {
			t.Errorf("%s: rolling update with %v, want %v", file, got, want)
		}
	}
}

// An upgrade from one deployment to the other replaces the drivers one after the other: the
// DaemonSet keeps its name and its selector, which nobody can change.
func TestDeploymentsShareTheirDaemonSet(t *testing.T) {
	central, node := only(t, manifests(t), "DaemonSet"), only(t, manifestsIn(t, nodeFile), "DaemonSet")
	if node.Metadata.Name != central.Metadata.Name ||
		!maps.Equal(node.Spec.Selector.MatchLabels, central.Spec.Selector.MatchLabels) {
		t.Errorf("DaemonSets %s and %s with selectors %v and %v", node.Metadata.Name,
			central.Metadata.Name, node.Spec.Selector.MatchLabels, central.Spec.Selector.MatchLabels)
	}
}

func TestChangedConfigurationRestartsTheDrivers(t *testing.T) {
	checksum := func(values string) string {
		return only(t, render(t, values), "DaemonSet").Spec.Template.Metadata.Annotations["checksum/config"]
	}
	one, other := checksum(""), checksum("config: {maxVolumesPerNode: 1}")
	if one == "" || one == other {
		t.Errorf("checksums %q and %q", one, other)
	}
}

func TestValuesThatCannotWorkAreRefused(t *testing.T) {
	for _, c := range []struct{ name, values, want string }{
		{"unknown key", "colour: blue", "additional properties 'colour' not allowed"},
		{"unknown key of a pool", "config: {pools: [{name: a, path: /data/a, siez: 1}]}", "additional properties 'siez' not allowed"},
		{"unknown parameter", "storageClasses: [{name: a, parameters: {tpye: DirectoryOrCreate}}]", "additional properties 'tpye' not allowed"},
		{"path without a type", "storageClasses: [{name: a, parameters: {path: /srv/a}}]", "properties 'type' required, if 'path' exists"},
		{"mode that YAML takes for a number", "storageClasses: [{name: a, parameters: {mode: 0750}}]", "want string"},
		{"no pool", "config: {pools: []}", "minItems: got 0, want 1"},
		{"relative pool", "config: {pools: [{name: a, path: data/a}]}", "does not match pattern"},
		{"pool at the root", "config: {pools: [{name: a, path: /data}]}", "pool a, /data: the driver's container cannot have the node's directory /:"},
		{"host directory at the root", "hostDirectories: [/usr]", "hostDirectories: the driver's container cannot have the node's directory /usr:"},
		{"pool over the driver's program", "config: {pools: [{name: a, path: /usr/local/a}]}", "cannot have the node's directory /usr/local:"},
		{"pool over the driver's socket", "config: {pools: [{name: a, path: /csi/a}]}", "cannot have the node's directory /csi:"},
		{"pool in the node's tree", "hostDirectories: [/host/data]", "cannot have the node's directory /host/data:"},
		{"pool beside kubelet", "config: {pools: [{name: a, path: /var/lib/a}]}", "cannot have the node's directory /var/lib:"},
		{"pool in kubelet's directory", "config: {pools: [{name: a, path: /var/lib/kubelet/a/b}]}", "cannot have the node's directory /var/lib/kubelet/a:"},
		{"pool outside", "hostDirectories: [/data]", "is in none of hostDirectories (/data)"},
		{"host path that is relative", "config: {hostPaths: [{path: srv}]}", "does not match pattern"},
		{"host path of an unknown type", "config: {hostPaths: [{path: /srv, types: [Dir]}]}", "value must be one of"},
		{"unknown key of a host path", "config: {hostPaths: [{path: /srv, readonly: true}]}", "additional properties 'readonly' not allowed"},
		{"root as a sidecar's user", "sidecars: {uid: 0}", "minimum: got 0, want 1"},
		{
			"certificate without its authority", "controller: {tls: {secret: a}}",
			"give both secret and authorityConfigMap",
		},
		{
			"group snapshots in node deployment",
			"{deployment: node, snapshotter: {enabled: true, groupSnapshots: true}}",
			"snapshotter.groupSnapshots needs deployment: central",
		},
		{"driver name in capitals", "driverName: Local", "does not match pattern"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := helm(t, c.values); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant …%s…", err, c.want)
			}
		})
	}
}

func TestDriverSeesTheHostOnlyWhenPathsOfItAreAllowed(t *testing.T) {
	for values, want := range map[string]string{
		"": "", "config: {hostPaths: [{path: /srv/shared}]}": "HostToContainer",
	} {
		pod := only(t, render(t, values), "DaemonSet").Spec.Template.Spec
		var source, got string
		for _, v := range pod.Volumes {
			if v.Name == "host" {
				source = v.HostPath.Path
			}
		}
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name == "host" && m.MountPath == "/host" && !m.ReadOnly {
				got = m.Propagation
			}
		}
		flagged := slices.Contains(pod.Containers[0].Args, "--host-root=/host")
		if got != want || flagged != (want != "") || (source == "/") != flagged {
			t.Errorf("%q: the host's %q is mounted as %q, the flag is there: %v", values, source, got,
				flagged)
		}
	}
}

func TestInlineVolumesAreOfferedAndKubeletSaysWhoseTheyAre(t *testing.T) {
	spec := only(t, manifests(t), "CSIDriver").Spec
	if !spec.PodInfoOnMount ||
		!slices.Equal(spec.VolumeLifecycleModes, []string{"Persistent", "Ephemeral"}) {
		t.Errorf("the CSIDriver object has podInfoOnMount %v and the modes %q", spec.PodInfoOnMount,
			spec.VolumeLifecycleModes)
	}
}

// The API server refuses a field that it does not know.
func TestCSIDriverHasTheFieldsThatTheAPIServerKnows(t *testing.T) {
	for _, c := range []struct {
		version          string
		period, prevents bool
	}{
		{"1.30.0", false, false},
		{"1.34.9", false, false},
		{"1.35.0", true, false},
		{"1.36.3", true, false},
		{"v1.37.0-alpha.1", true, true},
		{"1.37.2", true, true},
	} {
		objects, err := helm(t, "", "--kube-version", c.version)
		if err != nil {
			t.Fatal(err)
		}
		spec := only(t, objects, "CSIDriver").Spec
		if got := spec.NodeAllocatableUpdatePeriodSeconds; (got != nil) != c.period ||
			got != nil && *got < 10 {
			t.Errorf("Kubernetes %s: nodeAllocatableUpdatePeriodSeconds %v", c.version, got)
		}
		if got := spec.PreventPodSchedulingIfMissing; (got != nil) != c.prevents || got != nil && !*got {
			t.Errorf("Kubernetes %s: preventPodSchedulingIfMissing %v", c.version, got)
		}
	}
}

func TestHostDirectoriesAreMountedOnce(t *testing.T) {
	values := "config: {pools: [{name: a, path: /mnt/a, default: true}, {name: b, path: /mnt/b}, {name: c, path: /mnt/c/d}]}"
	var got []string
	for _, v := range only(t, render(t, values), "DaemonSet").Spec.Template.Spec.Volumes {
		if strings.HasPrefix(v.Name, "directory-") {
			got = append(got, v.HostPath.Path)
		}
	}
	if want := []string{"/mnt"}; !slices.Equal(got, want) {
		t.Errorf("mounted: %q, want %q", got, want)
	}
}

// To YAML, what comes behind a blank and a number sign is a comment.
func TestPathsAreTakenAsTheyAreWritten(t *testing.T) {
	objects := render(t, "kubeletDir: '/var/lib/kubelet #2'\nhostDirectories: ['/mnt/disk #1']\n"+
		"config: {pools: [{name: a, path: '/mnt/disk #1/a'}]}")
	spec := only(t, objects, "DaemonSet").Spec.Template.Spec
	program := spec.Containers[0]
	for _, path := range []string{"/var/lib/kubelet #2", "/mnt/disk #1"} {
		if !slices.ContainsFunc(
			program.VolumeMounts, func(m volumeMount) bool { return m.MountPath == path },
		) {
			t.Errorf("mounted are %v, want %q among them", program.VolumeMounts, path)
		}
		if !slices.ContainsFunc(
			spec.Volumes, func(v podVolume) bool { return v.HostPath != nil && v.HostPath.Path == path },
		) {
			t.Errorf("no volume is %q", path)
		}
	}
	if arg := "--kubelet-dir=/var/lib/kubelet #2"; !slices.Contains(program.Args, arg) {
		t.Errorf("the driver is told %q, want %q", program.Args, arg)
	}
}

// schema is a JSON schema's part that the tests compare.
type schema struct {
	Type                 string            `json:"type"`
	Properties           map[string]schema `json:"properties"`
	AdditionalProperties any               `json:"additionalProperties"`
	Items                *schema           `json:"items"`
}

func valuesSchema(t *testing.T) schema {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// provisionersOwn is what external-provisioner takes out of a class and puts into the capabilities
// of its calls.
const provisionersOwn = "csi.storage.k8s.io/fstype"

func TestSchemaKnowsWhatTheDriverKnows(t *testing.T) {
	s := valuesSchema(t).Properties
	properties := s["config"].Properties
	for _, c := range []struct {
		name   string
		schema schema
		want   []string
	}{
		{"configuration", s["config"], yamlNames(reflect.TypeFor[config.Config]())},
		{"pool", *properties["pools"].Items, yamlNames(reflect.TypeFor[config.Pool]())},
		{"host path", *properties["hostPaths"].Items, yamlNames(reflect.TypeFor[config.HostPath]())},
		{"git source", *properties["gitSources"].Items, yamlNames(reflect.TypeFor[config.GitSource]())},
		{
			"parameters of a class", s["storageClasses"].Items.Properties["parameters"],
			append(volume.ClassKeys(), provisionersOwn),
		},
	} {
		got := slices.Sorted(maps.Keys(c.schema.Properties))
		if !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
			t.Errorf("%s: the schema has %q, the driver %q", c.name, got, c.want)
		}
	}
}

func yamlNames(structure reflect.Type) []string {
	var names []string
	for field := range structure.Fields() {
		if name := field.Tag.Get("yaml"); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

func TestEveryValueIsShownWithItsDefault(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	values["global"] = map[string]any{} // a parent chart's
	compareKeys(t, "values", valuesSchema(t), values)
}

// compareKeys descends into the objects that both have. An object whose defaults are "none of it"
// is shown as {}.
func compareKeys(t *testing.T, at string, s schema, values map[string]any) {
	t.Helper()
	if s.Properties == nil || len(values) == 0 && at != "values" {
		return
	}
	if open, ok := s.AdditionalProperties.(bool); !ok || open {
		t.Errorf("%s: the schema lets unknown keys pass", at)
	}
	for name, property := range s.Properties {
		value, ok := values[name]
		if !ok {
			t.Errorf("%s.%s is not in values.yaml", at, name)
		}
		if object, ok := value.(map[string]any); ok {
			compareKeys(t, at+"."+name, property, object)
		}
	}
}

func TestExamplesAreOfTheDriver(t *testing.T) {
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range parse(t, text) {
			if o.Kind == "StorageClass" {
				checkClass(t, o, config.Default().DriverName)
			}
			checkInline(t, o, config.Default().DriverName)
		}
	}
}
