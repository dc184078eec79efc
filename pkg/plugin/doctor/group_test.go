package doctor

import (
	"errors"
	"slices"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// groupsOf are the groups with a severity.
func groupsOf(f *Facts, severity Severity) (groups []Group) {
	for _, g := range Grouped(Examine(f)) {
		if g.Severity == severity {
			groups = append(groups, g)
		}
	}
	return groups
}

func TestOneFaultOfManyNodesIsSaidOnce(t *testing.T) {
	f := healthy()
	f.Data.Pools = nil
	for _, node := range []string{"a", "b", "c"} {
		f.Data.Pools = append(f.Data.Pools,
			status.Pool{Node: node, Name: "default", Reason: "absent"},
			status.Pool{Node: node, Name: "fast", Reason: "not_mounted"})
	}
	groups := groupsOf(f, Error)
	if len(groups) != 2 {
		t.Fatalf("want a group for each reason, got %+v", groups)
	}
	for i, pool := range []string{"pool default", "pool fast"} {
		g := groups[i]
		want := []string{pool + " on node b", pool + " on node c"}
		if g.Subject != pool+" on node a" || !slices.Equal(g.Also, want) {
			t.Errorf("got %s, also %q", g.Subject, g.Also)
		}
	}
}

func TestPoolThatCannotBeUsedIsNamedOnce(t *testing.T) {
	f := healthy()
	f.Data.Pools = append(f.Data.Pools, status.Pool{
		Node: "a", Name: "fast", Optional: true, Reason: "absent",
	})
	f.Data.Missing = []status.Missing{
		{Node: "a", Pool: "fast", Reason: "pool fast cannot be used: absent"},
		{Node: "a", Pool: "default", Reason: "pool default cannot be used: hangs"},
	}
	groups := groupsOf(f, Warning)
	if len(groups) != 1 || groups[0].Subject != "pool default on node a" {
		t.Errorf("got %+v, want only the pool that hangs", groups)
	}
}

// Its pods, its link and its pools are not named: they cannot be better.
func TestNodeThatIsNotReadyIsNamedOnce(t *testing.T) {
	f := healthy()
	f.Nodes[0].Status.Conditions = []core.NodeCondition{{
		Type: core.NodeReady, Status: core.ConditionUnknown,
		Message:            "Kubelet stopped posting\nnode status.",
		LastTransitionTime: metav1.NewTime(now.Add(-2 * time.Minute)),
	}}
	f.DriverPods[0].Status.Conditions = nil
	f.ControllerPods = []*core.Pod{{Spec: core.PodSpec{NodeName: "a"}}}
	f.Data.Nodes[0] = status.Node{Name: "a", Why: "EOF"}
	f.Data.Missing = []status.Missing{{Node: "a", Reason: "it is not linked"}}
	groups := append(groupsOf(f, Error), groupsOf(f, Warning)...)
	if len(groups) != 1 || groups[0].Subject != "node a" || groups[0].Message !=
		"has not been ready for 2m: Kubelet stopped posting node status; 1 volume there cannot be used" {
		t.Errorf("got %+v", groups)
	}
}

func TestChecksThatLackTheSameAreOneGroup(t *testing.T) {
	f := healthy()
	f.Data, f.DataError = nil, errors.New("connection refused")
	groups := groupsOf(f, Unknown)
	if len(groups) != 1 || groups[0].Check != "links" && groups[0].Check != "pools" {
		t.Fatalf("got %+v", groups)
	}
	for _, check := range []string{"sizes", "room", "purges", "health", "full-volumes", "orphans"} {
		if !slices.Contains(groups[0].Also, check) {
			t.Errorf("%s is not among %q", check, groups[0].Also)
		}
	}
}

func TestDifferentFaultsStayApart(t *testing.T) {
	same := Finding{Severity: Error, Check: "pools", Subject: "node a", Message: "broken"}
	other, elsewhere, worse := same, same, same
	other.Message, elsewhere.Check, worse.Severity = "full", "room", Warning
	groups := Grouped([]Finding{same, other, elsewhere, worse, same})
	if len(groups) != 4 || len(groups[0].Also) != 0 {
		t.Errorf("got %+v", groups)
	}
}
