package plugin

import (
	"fmt"
	"slices"
	"testing"
	"time"

	k8stesting "k8s.io/client-go/testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
)

func TestLinesOfACallThatNamesTheVolumeAreAboutIt(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	lines := []reach.Line{
		{Time: at(0), Text: `I1129 "Call" method="CreateVolume" requestID="7-1"`},
		{Time: at(1), Text: `I1129 "Made" volumeID="7a3b-pvc-1" requestID="7-1"`},
		{Time: at(2), Text: `I1129 "Call" method="CreateVolume" requestID="7-2" name="pvc-2"`},
		{Time: at(3), Text: `{"msg":"Call ended","requestID":"7-1"}`},
		{Time: at(4), Text: `provisioner: claim shop/books`},
	}
	keeper := newLogKeeper(newLogFilter([]string{"pvc-1", "shop/books"}), maxKeptBytes)
	for _, l := range lines {
		keeper.add(l)
	}
	kept, _ := keeper.lines()
	var texts []string
	for _, l := range kept {
		texts = append(texts, l.Text)
	}
	if len(texts) != 4 || texts[2] != lines[3].Text || texts[3] != lines[4].Text {
		t.Errorf("%q", texts)
	}
}

func TestTheLinesThatAreKeptAreBounded(t *testing.T) {
	const limit = 10_000
	keeper := newLogKeeper(newLogFilter([]string{"pvc-1"}), limit)
	for i := range 10_000 {
		keeper.add(reach.Line{Text: fmt.Sprintf(`"Call" requestID="%d"`, i)})
		keeper.add(reach.Line{Text: "of another volume"})
		keeper.add(reach.Line{Text: "pvc-1"})
		if keeper.waitingBytes > limit || len(keeper.waiting) > limit/lineOverhead ||
			len(keeper.kept) > limit/lineOverhead {
			t.Fatalf("%d lines wait, %d are kept", len(keeper.waiting), len(keeper.kept))
		}
	}
	keeper.add(reach.Line{Text: `"Made" volumeID="pvc-1" requestID="9999"`})
	kept, cut := keeper.lines()
	if len(kept) == 0 || len(kept)+cut != 10_002 {
		t.Errorf("%d are kept, %d cut", len(kept), cut)
	}
}

func TestTheStatusAPISaysWhichNodeHasAVolume(t *testing.T) {
	c := newTestCluster(t)
	out, errs, err := c.run(t, "logs", "7a3baca9c553-pvc-1")
	if err != nil || !slices.Contains(c.asked, "volumes/7a3baca9c553-pvc-1") {
		t.Errorf("%v, %q, %q, %q", err, out, errs, c.asked)
	}
	for _, a := range c.client.Actions() {
		list, ok := a.(k8stesting.ListAction)
		if ok && a.GetResource().Resource == "pods" &&
			list.GetListRestrictions().Fields.String() == "spec.nodeName=node-a" {
			return
		}
	}
	t.Errorf("the pods of node-a were not listed: %v", c.client.Actions())
}

func TestFaultsOfTheNodeAreReadFromItsPage(t *testing.T) {
	got := nodeFaults("node: not ready: kubelet_private (the driver's log has more)\npool a: ready\n")
	if len(got) != 1 || got[0] != "kubelet_private" {
		t.Errorf("%q", got)
	}
}
