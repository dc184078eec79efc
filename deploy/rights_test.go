package deploy_test

import (
	"maps"
	"reflect"
	"slices"
	"testing"
)

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
		"ClusterRole /persistentvolumeclaims":       {"list", "watch", "update"},
		"ClusterRole storage.k8s.io/storageclasses": {"list", "watch"},
		"ClusterRole /events":                       {"create", "patch"},
		"Role storage.k8s.io/csistoragecapacities":  {"list", "watch", "create", "update", "delete"},
		"Role /pods": {"get"},
	}
	resizer := map[string][]string{
		"ClusterRole /persistentvolumeclaims/status": {"patch"},
		"Role coordination.k8s.io/leases":            {"get", "create", "update"},
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
		"":                             {provisioner, resizer},
		"resizer: {enabled: false}":    {provisioner},
		"snapshotter: {enabled: true}": {provisioner, resizer, snapshotter},
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

// rights lists the verbs by kind of role and resource.
func rights(objects []object) map[string][]string {
	verbs := map[string][]string{}
	for _, o := range objects {
		for _, r := range o.Rules {
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					verbs[o.Kind+" "+group+"/"+resource] = r.Verbs
				}
			}
		}
	}
	return verbs
}

// Each sidecar's right to change something is bounded by a policy, and none is there for a sidecar
// that is not.
func TestEveryRightToChangeHasAPolicy(t *testing.T) {
	policies := func(values string) (names []string) {
		for _, o := range render(t, values) {
			if o.Kind == "ValidatingAdmissionPolicy" {
				names = append(names, o.Metadata.Name)
			}
		}
		return names
	}
	for values, want := range map[string][]string{
		"": {"test-csi-hostpath-claims", "test-csi-hostpath-volumes"},
		"snapshotter: {enabled: true}": {
			"test-csi-hostpath-claims", "test-csi-hostpath-snapshots", "test-csi-hostpath-volumes",
		},
		"{snapshotter: {enabled: true}, admissionPolicy: {enabled: false}}": nil,
	} {
		if got := policies(values); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			t.Errorf("%q: policies %q, want %q", values, got, want)
		}
	}
}
