package deploy_test

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
)

// admissionPolicy is what the tests look at in a ValidatingAdmissionPolicy and in its binding.
type admissionPolicy struct {
	FailurePolicy    string `yaml:"failurePolicy"`
	MatchConstraints struct {
		ResourceRules []struct {
			APIGroups  []string `yaml:"apiGroups"`
			Resources  []string `yaml:"resources"`
			Operations []string `yaml:"operations"`
		} `yaml:"resourceRules"`
	} `yaml:"matchConstraints"`
	MatchConditions   []expression `yaml:"matchConditions"`
	Variables         []expression `yaml:"variables"`
	Validations       []expression `yaml:"validations"`
	PolicyName        string       `yaml:"policyName"`
	ValidationActions []string     `yaml:"validationActions"`
}

type expression struct {
	Expression string `yaml:"expression"`
}

func TestServiceAccountHasTheseRightsAndNoOther(t *testing.T) {
	provisioner := map[string][]string{
		"ClusterRole /persistentvolumes": {
			"get",
			"list",
			"watch",
			"create",
			"patch",
			"delete",
		},
		"ClusterRole /persistentvolumeclaims":       {"get", "list", "watch", "update"},
		"ClusterRole storage.k8s.io/storageclasses": {"list", "watch"},
		"ClusterRole /events":                       {"create", "patch"},
		"Role storage.k8s.io/csistoragecapacities":  {"list", "watch", "create", "update", "delete"},
		"Role /pods": {"get"},
	}
	snapshotter := map[string][]string{
		"ClusterRole snapshot.storage.k8s.io/volumesnapshots":       {"get"},
		"ClusterRole snapshot.storage.k8s.io/volumesnapshotclasses": {"list", "watch"},
		"ClusterRole snapshot.storage.k8s.io/volumesnapshotcontents": {
			"get",
			"list",
			"watch",
			"patch",
		},
		"ClusterRole snapshot.storage.k8s.io/volumesnapshotcontents/status": {"update", "patch"},
	}
	for values, want := range map[string][]map[string][]string{
		"":                             {provisioner},
		"resizer: {enabled: false}":    {provisioner},
		"snapshotter: {enabled: true}": {provisioner, snapshotter},
	} {
		all := map[string][]string{}
		for _, rights := range want {
			maps.Copy(all, rights)
		}
		if got := rights(without(render(t, node+"\n"+values), "-placer")); !reflect.DeepEqual(got, all) {
			t.Errorf("%q: got %v\nwant %v", values, got, all)
		}
	}
}

// without leaves out the objects whose names end so.
func without(objects []object, suffix string) []object {
	return slices.DeleteFunc(objects, func(o object) bool {
		return strings.HasSuffix(o.Metadata.Name, suffix)
	})
}

// The resizer runs beside the placer, with its service account.
func TestPlacerHasTheseRightsAndNoOther(t *testing.T) {
	rightsWith := func(values string) map[string][]string {
		return rights(slices.DeleteFunc(render(t, node+"\n"+values), func(o object) bool {
			return !strings.HasSuffix(o.Metadata.Name, "-placer")
		}))
	}
	const snapshots = "ClusterRole snapshot.storage.k8s.io/volumesnapshot"
	want := map[string][]string{
		"ClusterRole /persistentvolumeclaims":       {"list", "watch", "patch"},
		"ClusterRole /persistentvolumes":            {"list", "watch"},
		"ClusterRole /nodes":                        {"list", "watch"},
		"ClusterRole /pods":                         {"list", "watch"},
		"ClusterRole storage.k8s.io/storageclasses": {"list", "watch"},
		"ClusterRole /events":                       {"list", "watch", "create", "patch"},
		snapshots + "s":                             {"get"},
		snapshots + "contents":                      {"get", "list", "watch"},
		"Role coordination.k8s.io/leases":           {"get", "update", "create"},
	}
	without := rightsWith("snapshotter: {enabled: true}\nresizer: {enabled: false}")
	if !reflect.DeepEqual(without, want) {
		t.Errorf("without the resizer: got %v\nwant %v", without, want)
	}
	want["ClusterRole /persistentvolumes"] = append(want["ClusterRole /persistentvolumes"], "patch")
	want["ClusterRole /persistentvolumeclaims/status"] = []string{"patch"}
	if got := rightsWith(inBlocks); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	for _, o := range render(t, "{deployment: node, placer: {enabled: false}, resizer: {enabled: false}}") {
		if strings.HasSuffix(o.Metadata.Name, "-placer") {
			t.Errorf("%s %s is there", o.Kind, o.Metadata.Name)
		}
	}
}

func TestSnapshotControllerHasTheseRightsAndNoOther(t *testing.T) {
	objects := slices.DeleteFunc(render(t, nodeEverything), func(o object) bool {
		return !strings.HasSuffix(o.Metadata.Name, "-snapshots")
	})
	const snapshots = "ClusterRole snapshot.storage.k8s.io/volumesnapshot"
	want := map[string][]string{
		"ClusterRole /persistentvolumes":      {"get", "list", "watch"},
		"ClusterRole /persistentvolumeclaims": {"get", "list", "watch", "update"},
		"ClusterRole /nodes":                  {"get", "list", "watch"},
		"ClusterRole /events":                 {"create", "patch"},
		snapshots + "classes":                 {"get", "list", "watch"},
		snapshots + "contents":                {"get", "list", "watch", "create", "patch", "delete"},
		snapshots + "s":                       {"get", "list", "watch", "update", "patch"},
		snapshots + "s/status":                {"update"},
		"Role coordination.k8s.io/leases":     {"get", "update", "create"},
	}
	if got := rights(objects); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestControllerHasTheseRightsAndNoOther(t *testing.T) {
	controller := map[string][]string{
		"ClusterRole /persistentvolumes":                 {"get", "list", "watch", "create", "patch", "delete"},
		"ClusterRole /persistentvolumeclaims":            {"get", "list", "watch", "update", "get", "patch", "delete"},
		"ClusterRole storage.k8s.io/storageclasses":      {"list", "watch"},
		"ClusterRole storage.k8s.io/csinodes":            {"list", "watch"},
		"ClusterRole /nodes":                             {"list", "watch"},
		"ClusterRole /pods":                              {"list", "watch"},
		"ClusterRole /events":                            {"create", "patch", "list", "watch"},
		"ClusterRole authentication.k8s.io/tokenreviews": {"create"},
		"Role storage.k8s.io/csistoragecapacities":       {"list", "watch", "create", "update", "delete"},
		"Role /pods":                      {"get"},
		"Role apps/replicasets":           {"get"},
		"Role coordination.k8s.io/leases": {"get", "update", "create"},
	}
	authority := map[string][]string{"Role /secrets": {"get", "update"}, "Role /configmaps": {"get", "update"}}
	const classes = "ClusterRole storage.k8s.io/volumeattributesclasses"
	controller[classes] = []string{"get"}
	resizer := map[string][]string{
		"ClusterRole /persistentvolumeclaims/status": {"patch"}, classes: {"get", "list", "watch"},
	}
	const snapshots = "ClusterRole snapshot.storage.k8s.io/volumesnapshot"
	snapshotter := map[string][]string{
		snapshots + "s":               {"get"},
		snapshots + "classes":         {"list", "watch"},
		snapshots + "contents":        {"get", "list", "watch", "patch"},
		snapshots + "contents/status": {"update", "patch"},
	}
	for values, want := range map[string][]map[string][]string{
		"":                             {controller, authority, resizer},
		"resizer: {enabled: false}":    {controller, authority},
		"snapshotter: {enabled: true}": {controller, authority, resizer, snapshotter},
		"controller: {tls: {secret: a, authorityConfigMap: b}}": {controller, resizer},
	} {
		all := map[string][]string{}
		for _, rights := range want {
			maps.Copy(all, rights)
		}
		if got := rights(render(t, values)); !reflect.DeepEqual(got, all) {
			t.Errorf("%q: got %v\nwant %v", values, got, all)
		}
	}
}

// Of what others of the namespace have too, the controller may have its own by name.
func TestControllerHasItsSecretAndLeasesByName(t *testing.T) {
	want := map[string][]string{
		"secrets":    {"test-csi-hostpath-controller-ca"},
		"configmaps": {"test-csi-hostpath-controller-ca"},
		"leases": {
			"local-example-com", "csi-hostpath-controller-local-example-com",
			"external-resizer-local-example-com",
			"external-snapshotter-leader-local-example-com",
		},
	}
	got := map[string][]string{}
	for _, o := range render(t, "{snapshotter: {enabled: true}, driverName: local.example.com}") {
		for _, r := range o.Rules {
			for _, resource := range r.Resources {
				if want[resource] != nil && !slices.Equal(r.Verbs, []string{"create"}) {
					got[resource] = append(got[resource], r.ResourceNames...)
				}
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// rights lists the verbs by kind of role and resource.
func rights(objects []object) map[string][]string {
	verbs := map[string][]string{}
	for _, o := range objects {
		for _, r := range o.Rules {
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					key := o.Kind + " " + group + "/" + resource
					verbs[key] = append(verbs[key], r.Verbs...)
				}
			}
		}
	}
	return verbs
}

// What RBAC lets the accounts change is bounded, right by right, by a policy that is bound and
// refuses when in doubt. test/e2e tries what the policies of node deployment let through, and
// cmd/csi-hostpath-controller those of the central deployment.
func TestEveryRightToChangeHasAPolicy(t *testing.T) {
	for _, values := range []string{
		"", "resizer: {enabled: false}", "snapshotter: {enabled: true}",
		"resizer: {enabled: false}\nsnapshotter: {enabled: true}\ndriverName: local.example.com",
	} {
		objects := render(t, node+"\n"+values)
		for _, account := range []string{driverPods, driverPods + "-placer"} {
			checkPolicies(t, values, objects, account)
		}
	}
	for _, values := range []string{
		"", "resizer: {enabled: false}", "snapshotter: {enabled: true}", `nodeGone: {after: ""}`,
		"controller: {tls: {secret: a, authorityConfigMap: b}}",
		"snapshotter: {enabled: true, groupSnapshots: true}",
		"snapshotter: {enabled: true}\ndriverName: local.example.com",
	} {
		checkPolicies(t, values, render(t, values), controllerPods)
	}
}

// checkPolicies compares the rights of an account, whose roles have its name, with its policies.
func checkPolicies(t *testing.T, values string, objects []object, account string) {
	t.Helper()
	covered := operationsWithPolicies(t, objects, account)
	used := map[string]bool{}
	roles := slices.DeleteFunc(slices.Clone(objects),
		func(o object) bool { return o.Metadata.Name != account })
	for resource, verbs := range rights(roles) {
		_, resource, _ = strings.Cut(resource, " ")
		if resource == "authentication.k8s.io/tokenreviews" {
			continue // a question, which no policy can see
		}
		for _, verb := range verbs {
			operation, changes := map[string]string{
				"create": "CREATE", "update": "UPDATE", "patch": "UPDATE", "delete": "DELETE",
			}[verb]
			if changes && !covered[operation+" "+resource] {
				t.Errorf("%q: no policy sees %s %s %s", values, account, verb, resource)
			}
			used[operation+" "+resource] = true
		}
	}
	for operation := range covered {
		if !used[operation] {
			t.Errorf("%q: a policy is for %s, which %s may not do", values, operation, account)
		}
	}
}

// operationsWithPolicies lists, as "OPERATION group/resource", what the bound policies for an
// account see.
func operationsWithPolicies(t *testing.T, objects []object, account string) map[string]bool {
	t.Helper()
	bound := map[string]bool{}
	for _, o := range objects {
		if o.Kind == "ValidatingAdmissionPolicyBinding" {
			bound[o.Spec.PolicyName] = slices.Equal(o.Spec.ValidationActions, []string{"Deny"})
		}
	}
	covered := map[string]bool{}
	for _, o := range objects {
		if o.Kind != "ValidatingAdmissionPolicy" {
			continue
		}
		user := expression{"request.userInfo.username == 'system:serviceaccount:test:" + account + "'"}
		if !slices.Contains(o.Spec.MatchConditions, user) {
			continue
		}
		if !bound[o.Metadata.Name] || o.Spec.FailurePolicy != "Fail" || len(o.Spec.Validations) == 0 {
			t.Errorf("policy %s refuses nothing", o.Metadata.Name)
		}
		for _, rule := range o.Spec.MatchConstraints.ResourceRules {
			for _, resource := range rule.Resources {
				for _, operation := range rule.Operations {
					covered[operation+" "+rule.APIGroups[0]+"/"+resource] = true
				}
			}
		}
	}
	return covered
}

func TestPoliciesCanBeLeftOut(t *testing.T) {
	for _, deployment := range []string{"node", "central"} {
		for _, o := range render(t, "{deployment: "+deployment+", snapshotter: {enabled: true}, "+
			"snapshotController: {enabled: true}, admissionPolicy: {enabled: false}}") {
			if strings.HasPrefix(o.Kind, "ValidatingAdmissionPolicy") {
				t.Errorf("%s: %s %s is there", deployment, o.Kind, o.Metadata.Name)
			}
		}
	}
}

// The policies are for the service accounts of the chart, whatever their names.
func TestPoliciesAreForTheServiceAccounts(t *testing.T) {
	for deployment, accounts := range map[string][]string{
		"node":    {"mine", driverPods + "-placer", driverPods + "-snapshots"},
		"central": {controllerPods, driverPods + "-snapshots"},
	} {
		users, want := map[string]bool{}, map[string]bool{}
		for _, o := range render(t, "{deployment: "+deployment+", serviceAccount: {name: mine}, "+
			"snapshotter: {enabled: true}, snapshotController: {enabled: true}}") {
			for _, c := range o.Spec.MatchConditions {
				users[c.Expression] = true
			}
		}
		for _, account := range accounts {
			want["request.userInfo.username == 'system:serviceaccount:test:"+account+"'"] = true
		}
		if !maps.Equal(users, want) {
			t.Errorf("%s: the policies are for %v, want %v", deployment, users, want)
		}
	}
}

// A volume may have the mount options that the driver takes, and no other.
func TestPolicyKnowsTheDriversMountOptions(t *testing.T) {
	list := regexp.MustCompile(`mountOptions\.orValue\(\[\]\)\.all\(o,\s*o in \[([^\]]*)\]\)`)
	for _, values := range []string{node, ""} {
		var got []string
		for _, o := range render(t, values) {
			for _, v := range o.Spec.Validations {
				if m := list.FindStringSubmatch(v.Expression); m != nil {
					for option := range strings.SplitSeq(m[1], ", ") {
						got = append(got, strings.Trim(option, "'"))
					}
				}
			}
		}
		if want := mount.FlagNames(); !slices.Equal(got, want) {
			t.Errorf("%q: the policy has %q, the driver %q", values, got, want)
		}
	}
}
