package volume

import (
	"encoding/json"
	"testing"
)

func TestSourceIsReadBackFromARecord(t *testing.T) {
	name, err := ParseName("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Source{
		{}, FromSnapshot(NewSnapshotID(examplePool, name)), FromVolume(NewID(examplePool, name)),
	} {
		content, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Source
		if err := json.Unmarshal(content, &got); err != nil || got != want {
			t.Errorf("%s is read as %v, %v, want %v", content, got, err, want)
		}
		if want.IsNone() == (want.Pool() == examplePool) {
			t.Errorf("%v is in pool %q", want, want.Pool())
		}
	}
}

func TestSourceThatMakesNoSenseIsRefused(t *testing.T) {
	for _, content := range []string{
		`{"snapshot":"0123456789ab-s-a","volume":"0123456789ab-a"}`,
		`{"snapshot":"0123456789ab-a"}`,
		`{"volume":"0123456789ab-s-a"}`,
		`{"volume":"0123456789ab-../../etc"}`,
		`{"volume":1}`,
		`"0123456789ab-a"`,
	} {
		var s Source
		if err := json.Unmarshal([]byte(content), &s); err == nil {
			t.Errorf("%s is read as %v", content, s)
		}
	}
}
