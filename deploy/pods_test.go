package deploy_test

import (
	"fmt"
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

const (
	everything = "{snapshotter: {enabled: true}, snapshotController: {enabled: true, crds: true}}"
	node       = "deployment: node"
	// nodeEverything is everything, in node deployment.
	nodeEverything = "{deployment: node, snapshotter: {enabled: true}, " +
		"snapshotController: {enabled: true, crds: true}}"
)

// Names of the objects that have pods.
const (
	driverPods     = "test-csi-hostpath"
	controllerPods = "test-csi-hostpath-controller"
)

// podsOf are the pods of the chart by the name of what makes them: the driver's, the controller's
// and, if asked for, the snapshot controller's.
func podsOf(objects []object) map[string]object {
	pods := map[string]object{}
	for _, o := range objects {
		if len(o.Spec.Template.Spec.Containers) > 0 {
			pods[o.Metadata.Name] = o
		}
	}
	return pods
}

// Only the nodes' pods, and neither other pods nor the nodes themselves, reach the link's port.
func TestOnlyNodesReachTheLink(t *testing.T) {
	objects := render(t, "{controller: {linkPort: 7777}}")
	policy := policyOfPod(t, objects, podsOf(objects)[controllerPods])
	links := 0
	for _, rule := range policy.Ingress {
		for _, p := range rule.Ports {
			if p.Port != 7777 {
				continue
			}
			links++
			want := []map[string]any{{"podSelector": map[string]any{"matchLabels": map[string]any{
				"app.kubernetes.io/name": "csi-hostpath", "app.kubernetes.io/instance": "test",
			}}}}
			if !reflect.DeepEqual(rule.From, want) {
				t.Errorf("the link is reached from %v, want %v", rule.From, want)
			}
		}
	}
	if links != 1 {
		t.Errorf("%d rules are for the link: %+v", links, policy.Ingress)
	}
	labels := podsOf(objects)[driverPods].Spec.Template.Metadata.Labels
	if labels["app.kubernetes.io/name"] != "csi-hostpath" {
		t.Errorf("the driver's pods have the labels %v", labels)
	}
}

// A DaemonSet that took the controller's pods for its own would end them.
func TestControllersPodsAreNotTheDrivers(t *testing.T) {
	pods := podsOf(render(t, everything))
	for name, pod := range pods {
		matches := true
		for key, value := range pods[driverPods].Spec.Selector.MatchLabels {
			matches = matches && pod.Spec.Template.Metadata.Labels[key] == value
		}
		if matches != (name == driverPods) {
			t.Errorf("the DaemonSet selects the pods of %s: %v", name, matches)
		}
	}
}

func TestNetworkPolicyLetsInOnlyToTheMetrics(t *testing.T) {
	for _, values := range []string{
		"", "resizer: {enabled: false}", everything, node, nodeEverything,
	} {
		objects := render(t, values)
		for kind, pod := range podsOf(objects) {
			var listening []int
			for _, c := range pod.Spec.Template.Spec.Containers {
				for _, p := range c.Ports {
					if p.Name != "link" {
						listening = append(listening, p.ContainerPort)
					}
				}
			}
			policy := policyOfPod(t, objects, pod)
			var let []int
			for _, rule := range policy.Ingress {
				if len(rule.Ports) == 1 && rule.Ports[0].Port == 9820 {
					continue // TestOnlyNodesReachTheLink
				}
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

// The way out: the API server for those who have a token, and in the central deployment from the
// drivers to the controller, whose addresses are in DNS.
func TestNetworkPolicyNamesWhoMayScrapeAndTheWayOut(t *testing.T) {
	const values = "networkPolicy: {scrapers: [{podSelector: {matchLabels: {app: prometheus}}}], " +
		"egress: {enabled: true, to: [{ipBlock: {cidr: 192.0.2.10/32}}], ports: [16443]}}"
	const server = "16443 to 1"
	for deployment, want := range map[string]map[string][]string{
		"central": {driverPods: {"9820 to 1", "53 53 to 0"}, controllerPods: {server}},
		"node":    {driverPods: {server}, driverPods + "-placer": {server}},
	} {
		objects := render(t, values+"\ndeployment: "+deployment)
		pods := podsOf(objects)
		if len(pods) != len(want) {
			t.Errorf("%s: the pods are %q", deployment, slices.Sorted(maps.Keys(pods)))
		}
		for name, ways := range want {
			policy := policyOfPod(t, objects, pods[name])
			if len(policy.Ingress) == 0 || len(policy.Ingress[len(policy.Ingress)-1].From) != 1 {
				t.Errorf("%s: anybody may scrape %s: %+v", deployment, name, policy.Ingress)
			}
			if got := waysOut(policy); !slices.Equal(got, ways) ||
				!slices.Equal(policy.PolicyTypes, []string{"Ingress", "Egress"}) {
				t.Errorf("%s: %s has the ways out %q, want %q: %+v", deployment, name, got, ways, policy)
			}
		}
	}
}

// waysOut are the ports of each egress rule, and to how many peers: none stands for everybody.
func waysOut(policy networkPolicy) (ways []string) {
	for _, rule := range policy.Egress {
		var way strings.Builder
		for _, p := range rule.Ports {
			fmt.Fprintf(&way, "%d ", p.Port)
		}
		ways = append(ways, fmt.Sprintf("%sto %d", way.String(), len(rule.To)))
	}
	return ways
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
	pods := podsOf(render(t, everything))
	for name, pod := range podsOf(render(t, nodeEverything)) {
		pods["node "+name] = pod
	}
	for kind, pod := range pods {
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
	if containers != 6+6 {
		t.Errorf("%d containers", containers)
	}
}

func TestOnlyTheDriverSeesTheNode(t *testing.T) {
	for _, values := range []string{everything, nodeEverything} {
		for name, o := range podsOf(render(t, values)) {
			pod := o.Spec.Template.Spec
			hostPaths := map[string]bool{}
			for _, v := range pod.Volumes {
				hostPaths[v.Name] = v.HostPath != nil
			}
			for _, c := range pod.Containers {
				makesSocket := slices.Contains([]string{"driver", "controller", "placer"}, c.Name)
				for _, m := range c.VolumeMounts {
					if c.Name != "driver" && (hostPaths[m.Name] || m.Propagation != "") ||
						!makesSocket && !m.ReadOnly {
						t.Errorf("%s: %s gets more than it needs: %+v", name, c.Name, m)
					}
				}
			}
		}
	}
}

// In the central deployment a node has one container, whose token is taken by the controller alone.
func TestNodeOfTheCentralDeploymentHasNoTokenForTheAPI(t *testing.T) {
	objects := render(t, everything)
	pod := only(t, objects, "DaemonSet").Spec.Template.Spec
	if token := pod.AutomountServiceAccountToken; len(pod.Containers) != 1 || token == nil || *token {
		t.Errorf("a node has %d containers; automountServiceAccountToken %v", len(pod.Containers), token)
	}
	tokens := 0
	for _, v := range pod.Volumes {
		for _, source := range v.Projected.Sources {
			if source.ServiceAccountToken == nil {
				continue
			}
			tokens++
			if got := source.ServiceAccountToken.Audience; got != "csi-hostpath-controller" {
				t.Errorf("volume %s has a token for %q", v.Name, got)
			}
		}
	}
	if tokens != 1 {
		t.Errorf("a node has %d tokens", tokens)
	}
	for _, o := range objects {
		for _, subject := range o.Subjects {
			if subject.Name == driverPods {
				t.Errorf("%s %s gives the nodes rights", o.Kind, o.Metadata.Name)
			}
		}
	}
}

// What the driver is told must be what the controller asks for.
func TestNodesAndControllerAgree(t *testing.T) {
	objects := render(t, "{serviceAccount: {name: mine}, controller: {linkPort: 7777}}")
	node := podsOf(objects)[driverPods].Spec.Template.Spec.Containers[0]
	controller := podsOf(objects)[controllerPods].Spec.Template.Spec.Containers[0]
	for _, want := range []string{
		"--controller-address=" + controllerPods + ".test.svc:7777", "--driver-name=hostpath.csi.local",
		"--controller-server-name=csi-hostpath-controller",
	} {
		if !slices.Contains(node.Args, want) {
			t.Errorf("the driver is told %q, want %q", node.Args, want)
		}
	}
	for _, want := range []string{
		"--link-address=:7777", "--driver-name=hostpath.csi.local", "--node-service-account=test/mine",
		"--token-audience=csi-hostpath-controller", "--server-name=csi-hostpath-controller",
	} {
		if !slices.Contains(controller.Args, want) {
			t.Errorf("the controller is told %q, want %q", controller.Args, want)
		}
	}
	service := only(t, objects, "Service")
	if service.Metadata.Name != controllerPods || service.Spec.ClusterIP != "None" ||
		!service.Spec.PublishNotReadyAddresses {
		t.Errorf("the nodes find the controller through %+v", service.Spec)
	}
}

// The controller's authority is filled by the controller: an object that the chart filled would be
// emptied by each upgrade.
func TestAuthorityIsLeftToTheController(t *testing.T) {
	const name = "test-csi-hostpath-controller-ca"
	objects := render(t, "")
	for _, kind := range []string{"Secret", "ConfigMap"} {
		found := false
		for _, o := range objects {
			if o.Kind == kind && o.Metadata.Name == name {
				found = true
				if o.Data != nil {
					t.Errorf("%s %s has data", kind, name)
				}
			}
		}
		if !found {
			t.Errorf("no %s %s", kind, name)
		}
	}
	for _, o := range render(t, "{controller: {tls: {secret: a, authorityConfigMap: b}}}") {
		if o.Kind == "Secret" || o.Metadata.Name == name {
			t.Errorf("%s %s is there beside an authority of others", o.Kind, o.Metadata.Name)
		}
	}
}

// The privileged driver has no business with the API server.
func TestOnlySidecarsHaveAToken(t *testing.T) {
	pod := only(t, render(t, nodeEverything), "DaemonSet").Spec.Template.Spec
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
	for _, deployment := range []string{"node", "central"} {
		values := "deployment: " + deployment
		checkBounds(t, podsOf(render(t, values+"\n"+inBlocks)), podsOf(render(t, values+`
driver: {resources: `+chosen+`}
placer: {resources: `+chosen+`}
controller: {resources: `+chosen+`, sidecars: {resources: `+chosen+`}}
provisioner: {resources: `+chosen+`}
resizer: {resources: `+chosen+`}
snapshotter: {enabled: true, resources: `+chosen+`}
snapshotController: {enabled: true, resources: `+chosen+`}
`)), want)
	}
}

// inBlocks is everything, to be put behind other values.
const inBlocks = "snapshotter: {enabled: true}\nsnapshotController: {enabled: true, crds: true}\n"

func checkBounds(
	t *testing.T, defaults, chosen map[string]object, want map[string]map[string]string,
) {
	t.Helper()
	for kind, pod := range chosen {
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
		everything: byTag, nodeEverything: byTag,
		strings.ReplaceAll(`
deployment: node
image: {digest: D}
provisioner: {image: {digest: D}}
resizer: {image: {digest: D}}
snapshotter: {enabled: true, image: {digest: D}}
snapshotController: {enabled: true, image: {digest: D}}
`, "D", digest): byDigest,
		"image: {digest: '" + digest + "'}": byDigest,
	} {
		for _, pod := range podsOf(render(t, values)) {
			for _, c := range pod.Spec.Template.Spec.Containers {
				if into[c.Name] == "" || strings.Contains(c.Image, digest) {
					into[c.Name] = c.Image
				}
			}
		}
	}
	names := slices.Sorted(maps.Keys(byTag))
	want := []string{
		"controller", "driver", "placer", "provisioner", "resizer", "snapshot-controller", "snapshotter",
	}
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
