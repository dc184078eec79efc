package plugin

import (
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
)

func TestLinesOfACallThatNamesTheVolumeAreAboutIt(t *testing.T) {
	at := time.Unix(0, 0)
	lines := []reach.Line{
		{Time: at, Text: `I1129 "Call" method="CreateVolume" requestID="7-1"`},
		{Time: at, Text: `I1129 "Made" volumeID="7a3b-pvc-1" requestID="7-1"`},
		{Time: at, Text: `I1129 "Call" method="CreateVolume" requestID="7-2" name="pvc-2"`},
		{Time: at, Text: `{"msg":"Call ended","requestID":"7-1"}`},
		{Time: at, Text: `provisioner: claim shop/books`},
	}
	var texts []string
	for _, l := range newLogFilter([]string{"pvc-1", "shop/books"}).choose(lines) {
		texts = append(texts, l.Text)
	}
	if len(texts) != 4 || texts[2] != lines[3].Text || texts[3] != lines[4].Text {
		t.Errorf("%q", texts)
	}
}

func TestFaultsOfTheNodeAreReadFromItsPage(t *testing.T) {
	got := nodeFaults("node: not ready: kubelet_private (the driver's log has more)\npool a: ready\n")
	if len(got) != 1 || got[0] != "kubelet_private" {
		t.Errorf("%q", got)
	}
}
