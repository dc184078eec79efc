package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	passed = `{"Action":"run","Package":"github.com/csi-hostpath/csi-hostpath/pkg/a","Test":"TestA"}
{"Action":"output","Package":"github.com/csi-hostpath/csi-hostpath/pkg/a","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"github.com/csi-hostpath/csi-hostpath/pkg/a","Test":"TestA","Elapsed":0}
`
	skipped = `{"Action":"run","Package":"github.com/csi-hostpath/csi-hostpath/pkg/a","Test":"TestB/x"}
{"Action":"output","Package":"github.com/csi-hostpath/csi-hostpath/pkg/a","Test":"TestB/x","Output":"=== RUN   TestB/x\n"}
{"Action":"output","Package":"github.com/csi-hostpath/csi-hostpath/pkg/a","Test":"TestB/x","Output":"    a_test.go:7: needs root\n"}
{"Action":"output","Package":"github.com/csi-hostpath/csi-hostpath/pkg/a","Test":"TestB/x","Output":"    --- SKIP: TestB/x (0.00s)\n"}
{"Action":"skip","Package":"github.com/csi-hostpath/csi-hostpath/pkg/a","Test":"TestB/x","Elapsed":0}
`
	noTestFiles = `{"Action":"output","Package":"github.com/csi-hostpath/csi-hostpath/pkg/b","Output":"?   \tpkg/b\t[no test files]\n"}
{"Action":"skip","Package":"github.com/csi-hostpath/csi-hostpath/pkg/b","Elapsed":0}
`
)

func TestRunCountsSkips(t *testing.T) {
	tests := []struct {
		name         string
		json         string
		says         string
		wantUnlisted int
		wantErr      string
	}{
		{name: "all ran", json: passed + noTestFiles, says: "1 tests ran, 0 skipped, 0 of them unlisted"},
		{
			name:         "a skip",
			json:         passed + skipped,
			wantUnlisted: 1,
			says:         "SKIPPED: pkg/a TestB/x: a_test.go:7: needs root\n",
		},
		{name: "only skips", json: skipped, wantUnlisted: 1, wantErr: "no test ran", says: "SKIPPED"},
		{name: "nothing", json: noTestFiles, wantErr: "no test ran", says: "0 tests ran"},
		{name: "not JSON", json: "FAIL", wantErr: "invalid character"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "test.json")
			if err := os.WriteFile(file, []byte(tt.json), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			unlisted, err := run(&out, []string{file})
			if unlisted != tt.wantUnlisted {
				t.Errorf("%d unlisted skips, want %d", unlisted, tt.wantUnlisted)
			}
			if (err == nil) != (tt.wantErr == "") ||
				err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
			if !strings.Contains(out.String(), tt.says) {
				t.Errorf("printed %q, want %q in it", out.String(), tt.says)
			}
		})
	}
}

func TestAllowedListsByPackageAndPattern(t *testing.T) {
	rules, err := parseAllowed("# why\n\npkg/a TestB/*: no such kernel: never\n")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		skip skip
		want string
	}{
		{skip: skip{pkg: "pkg/a", test: "TestB/x"}, want: "no such kernel: never"},
		{skip: skip{pkg: "pkg/a", test: "TestB/x/y"}},
		{skip: skip{pkg: "pkg/a", test: "TestB"}},
		{skip: skip{pkg: "pkg/b", test: "TestB/x"}},
	}
	for _, tt := range tests {
		if got, _ := lookUp(rules, tt.skip); got != tt.want {
			t.Errorf("%v: reason %q, want %q", tt.skip, got, tt.want)
		}
	}
}

func TestAllowedNamesTheBadLine(t *testing.T) {
	for _, text := range []string{"pkg/a TestB", "pkg/a: why", "pkg/a TestB: ", "pkg/a Test[: why"} {
		if _, err := parseAllowed("\n" + text + "\n"); err == nil ||
			!strings.Contains(err.Error(), "allowed.txt:2:") {
			t.Errorf("%q: error %v, want one that names line 2", text, err)
		}
	}
}
