package status

import "time"

const (
	// sampleInterval is the least time between two samples, and keptSamples how many are kept: those
	// of a day.
	sampleInterval = 30 * time.Minute
	keptSamples    = 48
	historyOf      = keptSamples * sampleInterval
	// minGrowthTime is the least time of which a growth says anything.
	minGrowthTime = time.Hour
)

// History is the use of a pool or of a volume over the last day. It has at most 49 samples of 16
// bytes. The zero value is empty. It may not be used concurrently.
type History struct {
	kept   []point // at least sampleInterval apart
	latest point
}

// point is a Sample in less memory.
type point struct{ unix, bytes int64 }

func (p point) time() time.Time { return time.Unix(p.unix, 0).UTC() }

// Note keeps what was measured. It replaces what was measured before within the last 30 minutes.
func (h *History) Note(now time.Time, bytes int64) {
	if now.Unix() < h.latest.unix { // the clock was set back
		*h = History{}
	}
	h.latest = point{now.Unix(), bytes}
	if n := len(h.kept); n > 0 && now.Sub(h.kept[n-1].time()) < sampleInterval {
		return
	}
	if len(h.kept) == keptSamples {
		h.kept = append(h.kept[:0], h.kept[1:]...)
	}
	h.kept = append(h.kept, h.latest)
}

// Latest is what was measured last. Nothing was if the bool is false.
func (h *History) Latest() (Sample, bool) {
	return Sample{h.latest.time(), h.latest.bytes}, h.latest != point{}
}

// Samples are those of the last day, the oldest first.
func (h *History) Samples(now time.Time) (samples []Sample) {
	for _, p := range h.kept {
		if now.Sub(p.time()) <= historyOf {
			samples = append(samples, Sample{p.time(), p.bytes})
		}
	}
	if n := len(h.kept); n > 0 && h.kept[n-1] != h.latest {
		samples = append(samples, Sample{h.latest.time(), h.latest.bytes})
	}
	return samples
}

// Growth is by how much the samples say that a use grows within a day; nil if they are of less than
// an hour.
func Growth(samples []Sample) *int64 {
	if len(samples) < 2 {
		return nil
	}
	first, last := samples[0], samples[len(samples)-1]
	took := last.Time.Sub(first.Time)
	if took < minGrowthTime {
		return nil
	}
	perDay := int64(float64(last.Bytes-first.Bytes) * (24 * time.Hour).Seconds() / took.Seconds())
	return &perDay
}
