package status

import (
	"testing"
	"time"
)

func TestSizesAreWrittenAsPeopleReadThem(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 30: "1.0 GiB",
		150 << 40: "150 TiB", 1<<63 - 1: "8.0 EiB", -2048: "-2.0 KiB",
	} {
		if got := formatSize(bytes); got != want {
			t.Errorf("%d: %q, want %q", bytes, got, want)
		}
	}
}

func TestSpansHaveTheirTwoLargestUnits(t *testing.T) {
	for span, want := range map[time.Duration]string{
		0: "0 s", -time.Hour: "0 s", 59 * time.Second: "59 s", time.Minute: "1 min",
		90 * time.Second: "1 min 30 s", 52*time.Hour + 5*time.Minute: "2 d 4 h", 72 * time.Hour: "3 d",
	} {
		if got := formatSpan(span); got != want {
			t.Errorf("%s: %q, want %q", span, got, want)
		}
	}
}

func TestPartsAreNeverMoreThanTheWhole(t *testing.T) {
	if p := newPart(10, 0); p != nil {
		t.Errorf("of nothing: %+v", p)
	}
	for used, want := range map[int64]part{
		-5: {0, "ok"}, 50: {50, "ok"}, 80: {80, "high"}, 95: {95, "full"}, 1000: {100, "full"},
	} {
		if got := newPart(used, 100); *got != want {
			t.Errorf("%d: %+v, want %+v", used, *got, want)
		}
	}
	if p := copyPart(Copy{CopiedBytes: 200, TotalBytes: new(int64(100))}); p.Percent != 99 {
		t.Errorf("a copy that goes on is at %d %%", p.Percent)
	}
}
