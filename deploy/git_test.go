package deploy_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

const gitRules = `config:
  gitSources: [{urlPrefix: "https://git.example.com/team/", maxSize: 1Gi}]
`

// A feature that nobody has switched on costs nothing.
func TestGitIsFetchedOnlyWhereRulesAllowIt(t *testing.T) {
	for _, values := range []string{"", "deployment: node\n"} {
		for rules, want := range map[string]bool{"": false, gitRules: true} {
			objects := render(t, values+rules)
			pod := only(t, objects, "DaemonSet").Spec.Template.Spec
			isThere := slices.ContainsFunc(pod.Containers, func(c container) bool {
				return c.Name == "git-fetcher"
			})
			hasVolumes := slices.ContainsFunc(pod.Volumes, func(v podVolume) bool {
				return strings.HasPrefix(v.Name, "git-")
			})
			republishes := only(t, objects, "CSIDriver").Spec.RequiresRepublish
			if isThere != want || hasVolumes != want || republishes != want {
				t.Errorf("%q: a fetcher %v, its volumes %v, requiresRepublish %v; want %v",
					values+rules, isThere, hasVolumes, republishes, want)
			}
		}
	}
}

func TestFetcherOfGitHasNoRights(t *testing.T) {
	pod := only(t, render(t, gitRules), "DaemonSet").Spec.Template.Spec
	i := slices.IndexFunc(pod.Containers, func(c container) bool { return c.Name == "git-fetcher" })
	fetcher := pod.Containers[i]
	if want := map[string]any{
		"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
		"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
		"capabilities":   map[string]any{"drop": []any{"ALL"}},
		"seccompProfile": map[string]any{"type": "RuntimeDefault"},
	}; !reflect.DeepEqual(fetcher.SecurityContext, want) {
		t.Errorf("it runs with %v", fetcher.SecurityContext)
	}
	if fetcher.Resources["limits"]["memory"] == "" {
		t.Error("it has no limit of memory")
	}
	for _, m := range fetcher.VolumeMounts {
		for _, v := range pod.Volumes {
			isEmptyDir := v.HostPath == nil && strings.HasPrefix(v.Name, "git-")
			if v.Name == m.Name && !isEmptyDir || m.Propagation != "" {
				t.Errorf("it sees %+v", v)
			}
		}
	}
}
