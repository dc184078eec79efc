package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// TestFleetMeasuresEverythingAndLeavesNothing says nothing about times: this machine may be busy.
// But no volume may be lost, made twice or leaked, however busy it is.
func TestFleetMeasuresEverythingAndLeavesNothing(t *testing.T) {
	disks.RequireRoot(t)
	built, err := apiserver.IsBuilt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !built {
		t.Skip("needs the programs of test/cluster, which are not in the cache: run `make e2e`")
	}
	silence()
	// Not t.TempDir: its name is long, and the path of a socket has room for 107 bytes.
	dir, err := os.MkdirTemp("", "fleet-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	results := filepath.Join(t.TempDir(), "report.json")
	var out bytes.Buffer
	err = measure(options{
		parent:  dir,
		json:    results,
		rounds:  1,
		nodes:   10,
		linked:  20,
		volumes: 40,
		calls:   10,
		idle:    time.Second,
		kills:   2 * time.Second,
		cut:     4 * time.Second,
		burst:   20,
	}, &out, t.Logf)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	content, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	r, err := decode[report.Report](content)
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, r.Rows)
	if want := 24; len(r.Rows) != want {
		t.Errorf("%d rows, want %d:\n%s", len(r.Rows), want, out.String())
	}
}

// checkRows wants the rows about volumes to be zero, and the others to have been measured.
func checkRows(t *testing.T, rows []report.Row) {
	t.Helper()
	for _, row := range rows {
		switch {
		case row.Unit == "volumes" && row.Measured.Max > 0:
			t.Errorf("%s: %v", row.Name, row.Measured.Max)
		case row.Unit == "volumes", row.Unit == "1/s", strings.Contains(row.Name, "more"):
		case row.Measured.Median <= 0:
			t.Errorf("%s: nothing was measured", row.Name)
		}
	}
}
