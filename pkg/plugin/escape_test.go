package plugin

import (
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/doctor"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
)

// hostile is what a node may send: a colour, the start of a sequence in one character, and a bell.
const hostile = "\x1b[31mred\u009b2J\a\rend"

func TestWhatANodeSaysDoesNotReachTheTerminalRaw(t *testing.T) {
	var out, errs strings.Builder
	p := &plugin{Streams: Streams{Out: &out, Err: &errs}}
	s := &session{plugin: p}
	s.printLine(reach.Line{Pod: "a", Container: "driver", Text: hostile})
	s.sayOnce(map[string]bool{}, []string{hostile})
	finding := doctor.Finding{
		Severity: doctor.Error, Check: "pools", Subject: hostile, Message: hostile, Remedy: hostile,
		Reference: hostile,
	}
	other := finding
	other.Subject += " too"
	if err := p.printFindings([]doctor.Finding{finding, other}, "", false); err != nil {
		t.Fatal(err)
	}
	Run(t.Context(), []string{"doctor", "-o", hostile}, Streams{Out: &out, Err: &errs})
	got := out.String() + errs.String()
	if strings.ContainsAny(got, "\x1b\u009b\a\r") || strings.Count(got, "^[[31mred") < 8 {
		t.Errorf("%q", got)
	}
}
