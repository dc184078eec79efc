package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// TestBenchMeasuresEverythingAndLeavesNothing says nothing about times: this machine may be busy.
func TestBenchMeasuresEverythingAndLeavesNothing(t *testing.T) {
	disks.RequireRoot(t)
	// Not t.TempDir: its name is long, and the path of a socket has room for 107 bytes.
	dir, err := os.MkdirTemp("", "bench-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	results := filepath.Join(t.TempDir(), "report.json")
	o := options{
		fs:       onHost,
		parent:   dir,
		json:     results,
		rounds:   1,
		clients:  []int{1, 2, 32},
		duration: time.Millisecond,
		calls:    10,
		volumes:  1000,
		files:    1000,

		snapshotCount: 1500,

		bytes: 4 << 20,
	}
	var out bytes.Buffer
	if err := measure(o, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
	content, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(content, &r); err != nil {
		t.Fatal(err)
	}
	for _, row := range r.Rows {
		if row.Unit != "processes" && row.Unit != "ms/cycle" && row.Measured.Median <= 0 {
			t.Errorf("%s: nothing was measured", row.Name)
		}
	}
	if want := 113; len(r.Rows) != want {
		t.Errorf("%d rows, want %d:\n%s", len(r.Rows), want, out.String())
	}
}
