package deploy_test

import (
	"slices"
	"strings"
	"testing"
)

// A loopback address in a network that is the pod's own.
func TestStatusPageListensWhereOnlyAPortForwardReachesIt(t *testing.T) {
	for _, tc := range []struct {
		values string
		want   map[string]string // by the kind of the pods' owner; absent: no page
	}{
		{"deployment: central", map[string]string{"Deployment": "--status-address=127.0.0.1:9815"}},
		{"deployment: node", map[string]string{"DaemonSet": "--status-address=127.0.0.1:9815"}},
		{"{deployment: central, status: {port: 9900}}", map[string]string{"Deployment": "--status-address=127.0.0.1:9900"}},
		{"{deployment: central, status: {enabled: false}}", nil},
		{"{deployment: node, status: {enabled: false}}", nil},
	} {
		got := map[string]string{}
		for _, o := range render(t, tc.values) {
			pod := o.Spec.Template.Spec
			for _, c := range pod.Containers {
				i := slices.IndexFunc(c.Args, func(a string) bool {
					return strings.HasPrefix(a, "--status-address=")
				})
				if i < 0 {
					continue
				}
				got[o.Kind] = c.Args[i]
				if pod.HostNetwork {
					t.Errorf("%s: %s listens in the network of the node", tc.values, o.Metadata.Name)
				}
			}
		}
		if len(got) != len(tc.want) {
			t.Errorf("%s: %v, want %v", tc.values, got, tc.want)
		}
		for kind, want := range tc.want {
			if got[kind] != want {
				t.Errorf("%s: %s has %q, want %q", tc.values, kind, got[kind], want)
			}
		}
	}
}
