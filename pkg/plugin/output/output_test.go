package output

import (
	"strings"
	"testing"
	"time"
)

func sample() List {
	return List{
		Kind: "ThingList", None: "No things found.",
		Columns: []Column{{Name: "Thing"}, {Name: "Size"}, {Name: "ID", Wide: true}},
		Rows: []Row{
			{Name: "thing/a", Cells: []any{"a", Bytes(5 << 20), "1"}, Item: map[string]int{"size": 5 << 20}},
			{Name: "thing/bb", Cells: []any{"bb", Bytes(1 << 30), "2"}, Item: map[string]int{"size": 1}},
		},
	}
}

func TestListIsPrintedAsKubectlPrintsLists(t *testing.T) {
	for format, want := range map[string]string{
		Table: "THING   SIZE\na       5Mi\nbb      1Gi\n",
		Wide:  "THING   SIZE   ID\na       5Mi    1\nbb      1Gi    2\n",
		Name:  "thing/a\nthing/bb\n",
		YAML: "apiVersion: kubectl.hostpath.csi.local/v1\nitems:\n- size: 5242880\n- size: 1\n" +
			"kind: ThingList\n",
	} {
		var out, hints strings.Builder
		if err := Print(&out, &hints, format, sample()); err != nil {
			t.Fatal(err)
		}
		if out.String() != want || hints.String() != "" {
			t.Errorf("-o %s:\n%s\nwant:\n%s", format, out.String(), want)
		}
	}
}

func TestEmptyTableSaysSoAndEmptyJSONIsAList(t *testing.T) {
	empty := List{Kind: "ThingList", None: "No things found."}
	var out, hints strings.Builder
	if err := Print(&out, &hints, Table, empty); err != nil || out.String() != "" ||
		hints.String() != "No things found.\n" {
		t.Errorf("%v, %q, %q", err, out.String(), hints.String())
	}
	if err := Print(&out, &hints, JSON, empty); err != nil ||
		!strings.Contains(out.String(), `"items": []`) {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestWatchPrintsOnlyRowsThatHaveChanged(t *testing.T) {
	before, after := sample(), sample()
	after.Rows[1].Cells = []any{"bb", "2Gi", "2"}
	after.Rows = append(after.Rows, Row{Name: "thing/c", Cells: []any{"c", "0", "3"}})
	changed := after.Changed(before)
	if len(changed.Rows) != 2 || changed.Rows[0].Name != "thing/bb" ||
		changed.Rows[1].Name != "thing/c" || len(after.Rows) != 3 {
		t.Errorf("%+v", changed.Rows)
	}
}

func TestCells(t *testing.T) {
	five := int64(5)
	now := time.Unix(1000, 0)
	for got, want := range map[string]string{
		Bytes(0): "0", Bytes(999): "999", Bytes(1000): "0.98Ki", Bytes(1536): "1.50Ki",
		Bytes(15<<20 + 512<<10): "15.5Mi", Bytes(-1 << 30): "-1Gi", Bytes(1 << 62): "4Ei",
		BytesOf(nil): Unknown, Percent(1, 3): "33%", Percent(1, 0): Unknown, PercentOf(&five, 10): "50%",
		PercentOf(nil, 10): Unknown, Text(""): None, Age(time.Time{}, now): Unknown,
		Age(now.Add(-90*time.Second), now): "90s",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if Check("wide") != nil || Check("") != nil || Check("xml") == nil {
		t.Error("formats are not checked")
	}
}
