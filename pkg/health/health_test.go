package health

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// constants are the values of the constants of a type, in a file of pkg/volume.
func constants(t *testing.T, file, typeName string) (values []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "../volume/"+file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); ok && of.Name == typeName {
			literal, _ := spec.Values[0].(*ast.BasicLit)
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return true
	})
	if len(values) == 0 {
		t.Fatalf("%s has no constants of type %s", file, typeName)
	}
	return values
}

func TestEveryFaultAndEveryReasonHasARow(t *testing.T) {
	faults := constants(t, "fault.go", "Fault")
	for _, f := range faults {
		if _, ok := volumeTable[volume.Fault(f)]; !ok {
			t.Errorf("fault %s has no row", f)
		}
	}
	if len(volumeTable) != len(faults) {
		t.Errorf("%d rows for %d faults", len(volumeTable), len(faults))
	}
	reasons := constants(t, "reason.go", "Reason")
	for _, r := range reasons {
		_, ofPool := poolTable[volume.Reason(r)]
		_, ofNode := nodeTable[volume.Reason(r)]
		// While the driver opens a pool, nothing is known.
		if isOpening := volume.Reason(r) == volume.ReasonOpening; ofPool == ofNode != isOpening {
			t.Errorf("reason %s: a row for pools: %v, for the node: %v", r, ofPool, ofNode)
		}
	}
	if rows := len(poolTable) + len(nodeTable); rows != len(reasons)-1 {
		t.Errorf("%d rows for %d reasons", rows, len(reasons))
	}
	for _, f := range volume.PoolFaults() {
		if !slices.Contains(faults, string(f)) {
			t.Errorf("no fault %q", f)
		}
	}
}

func allConditions() (all []Condition) {
	for f := range volumeTable {
		all = append(all, OfVolume(f))
	}
	for r := range poolTable {
		all = append(all, OfPool(r, "fast"))
	}
	for _, c := range nodeTable {
		all = append(all, c)
	}
	return append(all, OfVolume("of a newer version"), OfPool("of a newer version", "fast"))
}

// The owner of a claim sees the message, and nothing else.
func TestEveryMessageSaysWhatToDo(t *testing.T) {
	remedy := regexp.MustCompile(`(Restore|Repair|Find|Delete|Unmount|Look|Restart|Mount|Put|Take|` +
		`Give|End|Install|Set|Replace|Clone|make the record again|log [a-z' ]*says (why|what is wrong))\b`)
	for _, c := range allConditions() {
		if !remedy.MatchString(c.Message) {
			t.Errorf("%s: %s", c.Reason, c.Message)
		}
	}
}

// People look for a reason in the table of docs/health.md.
func TestEveryReasonIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/health.md")
	if err != nil {
		t.Fatal(err)
	}
	status := map[csi.VolumeHealthErrorType]string{
		degraded: "Degraded", inaccessible: "Inaccessible", dataLoss: "DataLoss",
	}
	var all []Condition
	for _, table := range []map[volume.Reason]Condition{poolTable, nodeTable} {
		all = slices.AppendSeq(all, maps.Values(table))
	}
	for _, c := range slices.AppendSeq(all, maps.Values(volumeTable)) {
		row := regexp.MustCompile("(?m)^\\| [^|]*`" + c.Reason + "`[^|]*\\| " + status[c.Status] + " \\|")
		if !row.Match(text) {
			t.Errorf("docs/health.md has no row with %s and %s", c.Reason, status[c.Status])
		}
	}
}

// Kubernetes has these rules (IsValidConditionReason, validateStorageHealthCondition).
func TestKubernetesAcceptsEveryCondition(t *testing.T) {
	camelCase := regexp.MustCompile(`^[A-Z][A-Za-z]+$`)
	for _, c := range allConditions() {
		if !camelCase.MatchString(c.Reason) {
			t.Errorf("the reason %q is not CamelCase", c.Reason)
		}
		if len(c.Message) > maxMessage || !strings.HasSuffix(c.Message, ".") {
			t.Errorf("%s: the message has %d bytes: %s", c.Reason, len(c.Message), c.Message)
		}
		if c.Status == csi.VolumeHealthErrorType_UNKNOWN_VOLUME_HEALTH_TYPE {
			t.Errorf("%s has no status", c.Reason)
		}
	}
	long := OfPool(volume.ReasonAbsent, strings.Repeat("é", maxMessage), "b")
	if len(long.Message) > maxMessage || !strings.Contains(long.Message, "Mount its disk") {
		t.Errorf("a message of %d bytes: %s", len(long.Message), long.Message)
	}
}

func TestEntriesOfAVolumeDiffer(t *testing.T) {
	got := Message("v", append(Of([]volume.Fault{
		volume.FaultGrowthFailed, volume.FaultDataMissing, volume.FaultGrowthFailed,
	}), Pool{Name: "p", Reason: volume.ReasonDiskFailed}.Conditions()...))
	var reasons []string
	for _, e := range got.GetHealthStatuses() {
		reasons = append(reasons, e.GetReason())
	}
	if want := "DataMissing DiskFailed GrowthFailed"; strings.Join(reasons, " ") != want {
		t.Errorf("%s, want %s", reasons, want)
	}
	if got.GetVolumeId() != "v" {
		t.Errorf("volume %q", got.GetVolumeId())
	}
	if healthy := Message("v", Pool{Name: "p"}.Conditions()); len(healthy.GetHealthStatuses()) != 0 {
		t.Errorf("a healthy volume has %v", healthy)
	}
	if n := len(Message("v", allConditions()).GetHealthStatuses()); n != maxConditions {
		t.Errorf("%d entries, Kubernetes takes %d", n, maxConditions)
	}
}

func TestPoolsShareAnEntryOfTheNode(t *testing.T) {
	got := Storage([]Pool{
		{Name: "a", Reason: volume.ReasonDiskFailed},
		{Name: "b"},
		{Name: "c", Reason: volume.ReasonDiskFailed},
		{Name: "d", Reason: volume.ReasonReadOnly},
		{Name: "e", Reason: volume.ReasonOpening},
		{Name: "f", Reason: volume.ReasonAbsent, IsOptional: true},
	}, []volume.Reason{volume.ReasonKubeletHangs})
	var lines []string
	for _, e := range got {
		subject, _, _ := strings.Cut(e.GetMessage(), ":")
		lines = append(lines, e.GetStatus().String()+" "+e.GetReason()+" "+subject)
	}
	want := []string{
		"STORAGE_UNREACHABLE DiskFailed Each of the pools a, c",
		"STORAGE_UNREACHABLE KubeletDirectoryHangs " + nodeTable[volume.ReasonKubeletHangs].Message,
		"STORAGE_DEGRADED PoolReadOnly Pool d",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
}
