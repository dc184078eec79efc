package remedy

import (
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/docs"
)

func TestBookHasTheRowsOfTheDocument(t *testing.T) {
	rows := Read(docs.Troubleshooting).Rows()
	if len(rows) < 60 {
		t.Errorf("%d rows were read", len(rows))
	}
	for _, row := range rows {
		if row.Do == "" || row.Cause == "" || strings.Contains(row.Do, "](") {
			t.Errorf("%q: cause %q, do %q", row.Message, row.Cause, row.Do)
		}
	}
}

// Each message finds its own row: what the document quotes is what doctor finds.
func TestEachQuotedMessageFindsItsRow(t *testing.T) {
	b := Read(docs.Troubleshooting)
	for _, row := range b.Rows() {
		for _, p := range row.patterns {
			message := "before " + strings.Join(p, " 123 ") + " after"
			got, ok := b.For(message, row.Section)
			if !ok || got.Message != row.Message && !said(got, message) {
				t.Errorf("%q: found %q, %v", message, got.Message, ok)
			}
		}
	}
}

func said(row Row, message string) bool {
	for _, p := range row.patterns {
		if p.matches(message) {
			return true
		}
	}
	return false
}

func TestMessagesOfAClusterFindTheirRow(t *testing.T) {
	b := Read(docs.Troubleshooting)
	for _, tc := range []struct{ message, section, want string }{
		{
			`failed to provision volume with StorageClass "a": rpc error: code = InvalidArgument desc = ` +
				`invalid: unknown parameter "tpye"; known: type, mode`,
			"The claim stays Pending", "an error in the class",
		},
		{
			"waiting for first consumer to be created before binding",
			"The claim stays Pending", "none: the volume is created where the first pod runs",
		},
		{
			`rpc error: code = ResourceExhausted desc = no space: 5 bytes wanted, 3 available: ` +
				`(filesystem 9 - used by others 1) * overcommit 1 - reserve 0 - promised to volumes 5 - ` +
				`waiting to be purged 0`,
			"The claim stays Pending", "this node has no room; Kubernetes tries another one",
		},
		{"hello", "", ""},
	} {
		row, ok := b.For(tc.message, tc.section)
		if ok != (tc.want != "") || row.Cause != tc.want {
			t.Errorf("%q: found %q, want %q", tc.message, row.Cause, tc.want)
		}
	}
}
