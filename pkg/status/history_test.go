package status

import (
	"testing"
	"time"
)

func TestHistoryHasADayOfSamplesHoweverOftenItIsNoted(t *testing.T) {
	var h History
	start := time.Unix(1_700_000_000, 0).UTC()
	now := start
	for i := range 3 * 24 * 60 { // three days, a note each minute
		now = start.Add(time.Duration(i) * time.Minute)
		h.Note(now, int64(i))
	}
	samples := h.Samples(now)
	if n := len(samples); n < keptSamples-1 || n > keptSamples+1 || cap(h.kept) > 2*keptSamples {
		t.Fatalf("%d samples in %d places", n, cap(h.kept))
	}
	last := samples[len(samples)-1]
	if !last.Time.Equal(now) || last.Bytes != 3*24*60-1 {
		t.Errorf("the last one is %+v, want that of %s", last, now)
	}
	if age := now.Sub(samples[0].Time); age > 24*time.Hour || age < 23*time.Hour {
		t.Errorf("the first one is %s old", age)
	}
	if g := Growth(samples); g == nil || *g != 24*60 {
		t.Errorf("it grows by %v in a day, want %d", g, 24*60)
	}
	if old := h.Samples(now.Add(48 * time.Hour)); len(old) > 1 {
		t.Errorf("%d samples of two days ago", len(old))
	}
}

func TestShortHistorySaysNoGrowth(t *testing.T) {
	var h History
	now := time.Unix(1_700_000_000, 0).UTC()
	if len(h.Samples(now)) != 0 || Growth(nil) != nil {
		t.Error("an empty history has samples, or grows")
	}
	h.Note(now, 1)
	h.Note(now.Add(59*time.Minute), 1<<40)
	if g := Growth(h.Samples(now.Add(59 * time.Minute))); g != nil {
		t.Errorf("it grows by %d", *g)
	}
}

func TestHistoryBeginsAgainWhenTheClockIsSetBack(t *testing.T) {
	var h History
	now := time.Unix(1_700_000_000, 0).UTC()
	h.Note(now, 1)
	h.Note(now.Add(-time.Hour), 2)
	samples := h.Samples(now)
	if len(samples) != 1 || samples[0].Bytes != 2 {
		t.Errorf("%+v", samples)
	}
}
