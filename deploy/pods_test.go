package deploy_test

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// networkPolicy is what the tests look at in a NetworkPolicy.
type networkPolicy struct {
	PodSelector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	} `yaml:"podSelector"`
	PolicyTypes []string      `yaml:"policyTypes"`
	Ingress     []networkRule `yaml:"ingress"`
	Egress      []networkRule `yaml:"egress"`
}

type networkRule struct {
	Ports []struct {
		Port int `yaml:"port"`
	} `yaml:"ports"`
	From []map[string]any `yaml:"from"`
	To   []map[string]any `yaml:"to"`
}

const everything = "{snapshotter: {enabled: true}, snapshotController: {enabled: true, crds: true}}"

// podsOf are the pods of the chart: the driver's and, if asked for, the snapshot controller's.
func podsOf(objects []object) map[string]object {
	pods := map[string]object{}
	for _, o := range objects {
		if len(o.Spec.Template.Spec.Containers) > 0 {
			pods[o.Kind] = o
		}
	}
	return pods
}

func TestNetworkPolicyLetsInOnlyToTheMetrics(t *testing.T) {
	for _, values := range []string{"", "resizer: {enabled: false}", everything} {
		objects := render(t, values)
		for kind, pod := range podsOf(objects) {
			var listening []int
			for _, c := range pod.Spec.Template.Spec.Containers {
				for _, p := range c.Ports {
					listening = append(listening, p.ContainerPort)
				}
			}
			policy := policyOfPod(t, objects, pod)
			var let []int
			for _, rule := range policy.Ingress {
				for _, p := range rule.Ports {
					let = append(let, p.Port)
				}
				if len(rule.From) > 0 || len(rule.Ports) == 0 {
					t.Errorf("%q: %s: rule %+v", values, kind, rule)
				}
			}
			if !slices.Equal(let, listening) || !slices.Equal(policy.PolicyTypes, []string{"Ingress"}) {
				t.Errorf("%q: %s listens at %v, the policy lets in to %v: %+v", values, kind, listening, let,
					policy)
			}
		}
	}
	for _, o := range render(t, "networkPolicy: {enabled: false}") {
		if o.Kind == "NetworkPolicy" {
			t.Error("there is a policy that was switched off")
		}
	}
}

// policyOfPod is the one policy that selects the pod.
func policyOfPod(t *testing.T, objects []object, pod object) networkPolicy {
	t.Helper()
	var found []networkPolicy
	for _, o := range objects {
		selected := o.Kind == "NetworkPolicy"
		for key, value := range o.Spec.PodSelector.MatchLabels {
			selected = selected && pod.Spec.Template.Metadata.Labels[key] == value
		}
		if selected {
			found = append(found, o.Spec.networkPolicy)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d policies select the pods of the %s", len(found), pod.Kind)
	}
	return found[0]
}

func TestNetworkPolicyNamesWhoMayScrapeAndTheWayOut(t *testing.T) {
	objects := render(t, "networkPolicy: {scrapers: [{podSelector: {matchLabels: {app: prometheus}}}], "+
		"egress: {enabled: true, to: [{ipBlock: {cidr: 192.0.2.10/32}}], ports: [16443]}}")
	policy := policyOfPod(t, objects, podsOf(objects)["DaemonSet"])
	if len(policy.Ingress) != 1 || len(policy.Ingress[0].From) != 1 {
		t.Errorf("anybody may scrape: %+v", policy.Ingress)
	}
	if len(policy.Egress) != 1 || len(policy.Egress[0].To) != 1 ||
		policy.Egress[0].Ports[0].Port != 16443 ||
		!slices.Equal(policy.PolicyTypes, []string{"Ingress", "Egress"}) {
		t.Errorf("the way out: %+v", policy)
	}
}

func TestOnlyTheDriverIsPrivileged(t *testing.T) {
	restricted := map[string]any{
		"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
		"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
		"capabilities":   map[string]any{"drop": []any{"ALL"}},
		"seccompProfile": map[string]any{"type": "RuntimeDefault"},
	}
	privileged := map[string]any{"privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 0}
	containers := 0
	for kind, pod := range podsOf(render(t, everything)) {
		spec := pod.Spec.Template.Spec
		if spec.HostNetwork || spec.HostPID || spec.HostIPC || len(spec.InitContainers) > 0 ||
			spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
			t.Errorf("the pod of the %s has more than it needs: %+v", kind, spec)
		}
		for _, c := range spec.Containers {
			containers++
			want := restricted
			if c.Name == "driver" {
				want = privileged
			}
			if !reflect.DeepEqual(c.SecurityContext, want) {
				t.Errorf("%s runs with %v\nwant %v", c.Name, c.SecurityContext, want)
			}
		}
	}
	if containers != 5 {
		t.Errorf("%d containers", containers)
	}
}

func TestSidecarsSeeNothingOfTheNode(t *testing.T) {
	pod := only(t, render(t, everything), "DaemonSet").Spec.Template.Spec
	hostPaths := map[string]bool{}
	for _, v := range pod.Volumes {
		hostPaths[v.Name] = v.HostPath != nil
	}
	for _, c := range pod.Containers {
		for _, m := range c.VolumeMounts {
			if c.Name != "driver" && (hostPaths[m.Name] || !m.ReadOnly || m.Propagation != "") {
				t.Errorf("%s gets more than it needs: %+v", c.Name, m)
			}
		}
	}
}

// The privileged driver has no business with the API server.
func TestOnlySidecarsHaveAToken(t *testing.T) {
	pod := only(t, render(t, everything), "DaemonSet").Spec.Template.Spec
	if token := pod.AutomountServiceAccountToken; token == nil || *token {
		t.Error("every container gets a token of the service account")
	}
	for _, c := range pod.Containers {
		has := slices.ContainsFunc(c.VolumeMounts, func(m volumeMount) bool {
			return m.Name == "api-access" || strings.HasPrefix(m.MountPath, "/var/run/secrets")
		})
		if has != (c.Name != "driver") {
			t.Errorf("%s has a token: %v", c.Name, has)
		}
	}
}

func TestEveryContainerIsBounded(t *testing.T) {
	chosen := "{requests: {cpu: 1m, memory: 2Mi}, limits: {memory: 3Mi}}"
	want := map[string]map[string]string{
		"requests": {"cpu": "1m", "memory": "2Mi"}, "limits": {"memory": "3Mi"},
	}
	defaults := podsOf(render(t, everything))
	for kind, pod := range podsOf(render(t, `
driver: {resources: `+chosen+`}
provisioner: {resources: `+chosen+`}
resizer: {resources: `+chosen+`}
snapshotter: {enabled: true, resources: `+chosen+`}
snapshotController: {enabled: true, resources: `+chosen+`}
`)) {
		for i, c := range pod.Spec.Template.Spec.Containers {
			if !reflect.DeepEqual(c.Resources, want) {
				t.Errorf("%s: %s has %v, want %v", kind, c.Name, c.Resources, want)
			}
			byDefault := defaults[kind].Spec.Template.Spec.Containers[i].Resources
			requests, limits := byDefault["requests"], byDefault["limits"]
			if requests["memory"] == "" || requests["cpu"] == "" || limits["memory"] == "" {
				t.Errorf("%s: %s has by default %v", kind, c.Name, byDefault)
			}
			// A driver that is throttled holds up pods.
			if c.Name == "driver" && limits["cpu"] != "" {
				t.Errorf("the driver has a limit of CPU: %v", byDefault)
			}
		}
	}
}

// An image is named by a version or by what it holds, never by a tag that moves.
func TestImagesArePinned(t *testing.T) {
	version := regexp.MustCompile(`^[a-z0-9./-]+:v?\d+\.\d+\.\d+$`)
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	byTag, byDigest := map[string]string{}, map[string]string{}
	for values, into := range map[string]map[string]string{
		everything: byTag,
		strings.ReplaceAll(`
image: {digest: D}
provisioner: {image: {digest: D}}
resizer: {image: {digest: D}}
snapshotter: {enabled: true, image: {digest: D}}
snapshotController: {enabled: true, image: {digest: D}}
`, "D", digest): byDigest,
	} {
		for _, pod := range podsOf(render(t, values)) {
			for _, c := range pod.Spec.Template.Spec.Containers {
				into[c.Name] = c.Image
			}
		}
	}
	names := slices.Sorted(maps.Keys(byTag))
	want := []string{"driver", "provisioner", "resizer", "snapshot-controller", "snapshotter"}
	if !slices.Equal(names, want) {
		t.Fatalf("containers %q, want %q", names, want)
	}
	for _, name := range names {
		repository, _, _ := strings.Cut(byTag[name], ":")
		if !version.MatchString(byTag[name]) || byDigest[name] != repository+"@"+digest {
			t.Errorf("%s runs %s, and with a digest %s", name, byTag[name], byDigest[name])
		}
	}
}
