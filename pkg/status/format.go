package status

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// formatSize writes bytes as people read them: 1.5 GiB.
func formatSize(bytes int64) string {
	if bytes > -1024 && bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/1024, 0
	for units := "KMGTPE"; math.Abs(value) >= 1024 && unit < len(units)-1; unit++ {
		value /= 1024
	}
	digits := 1
	if math.Abs(value) >= 100 {
		digits = 0
	}
	return fmt.Sprintf("%.*f %ciB", digits, value, "KMGTPE"[unit])
}

func formatOptionalSize(bytes *int64) string {
	if bytes == nil {
		return "not counted"
	}
	return formatSize(*bytes)
}

func formatGrowth(perDay *int64) string {
	switch {
	case perDay == nil:
		return "not known yet"
	case *perDay > 0:
		return "+" + formatSize(*perDay) + " a day"
	default:
		return strings.Replace(formatSize(*perDay), "-", "−", 1) + " a day"
	}
}

func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// formatSpan writes a time span with its two largest units: 3 d 4 h.
func formatSpan(d time.Duration) string {
	seconds := int64(max(0, d).Seconds())
	for _, u := range []struct {
		seconds     int64
		name, minor string
		minorOf     int64
	}{{86400, "d", "h", 3600}, {3600, "h", "min", 60}, {60, "min", "s", 1}} {
		if seconds < u.seconds {
			continue
		}
		rest := seconds % u.seconds / u.minorOf
		if rest == 0 {
			return fmt.Sprintf("%d %s", seconds/u.seconds, u.name)
		}
		return fmt.Sprintf("%d %s %d %s", seconds/u.seconds, u.name, rest, u.minor)
	}
	return fmt.Sprintf("%d s", seconds)
}

func formatObject(o *ObjectName) string {
	if o == nil {
		return "–"
	}
	return o.Namespace + "/" + o.Name
}

// formatWords makes words of the labels of faults and reasons.
func formatWords(label string) string { return strings.ReplaceAll(label, "_", " ") }

func formatFaults(faults map[string]int64) string {
	texts := make([]string, 0, len(faults))
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		texts = append(texts, fmt.Sprintf("%d × %s", faults[name], formatWords(name)))
	}
	return strings.Join(texts, ", ")
}

// part is how much of something is taken.
type part struct {
	Percent int
	// Level is ok, high or full.
	Level string
}

// newPart returns nil if nothing says how much there is.
func newPart(used, size int64) *part {
	if size <= 0 {
		return nil
	}
	percent := int(100 * float64(max(0, min(used, size))) / float64(size))
	level := "ok"
	switch {
	case percent >= 95:
		level = "full"
	case percent >= 80:
		level = "high"
	}
	return &part{percent, level}
}

// usedPart is that of a pool's filesystem. Of a pool that was not asked, what volumes cannot have
// any more.
func usedPart(p Pool) *part {
	if p.AsOf != nil {
		return newPart(p.SizeBytes-p.AvailableBytes, p.SizeBytes)
	}
	return newPart(p.UsedBytes, p.SizeBytes)
}

func volumePart(v Volume) *part {
	if v.UsedBytes == nil {
		return nil
	}
	return newPart(*v.UsedBytes, v.CapacityBytes)
}

// copyPart is below 100 as long as the copy goes on, because the total is an estimate.
func copyPart(c Copy) *part {
	if c.TotalBytes == nil || *c.TotalBytes <= 0 {
		return nil
	}
	return &part{min(99, int(100*float64(c.CopiedBytes)/float64(*c.TotalBytes))), "ok"}
}

// chart is a drawing of samples over the last day.
type chart struct {
	Points      string
	Most        int64
	First, Last time.Time
	Description string
}

const chartWidth, chartHeight = 480, 96

// newChart returns nil for fewer than two samples. size is what can be used at most; 0: unknown.
func newChart(samples []Sample, size int64) *chart {
	if len(samples) < 2 {
		return nil
	}
	c := &chart{First: samples[0].Time, Last: samples[len(samples)-1].Time, Most: max(size, 1)}
	for _, s := range samples {
		c.Most = max(c.Most, s.Bytes)
	}
	took := max(1, c.Last.Sub(c.First).Seconds())
	points := make([]string, 0, len(samples))
	for _, s := range samples {
		x := chartWidth * s.Time.Sub(c.First).Seconds() / took
		y := chartHeight * (1 - float64(max(0, s.Bytes))/float64(c.Most))
		points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
	}
	c.Points = strings.Join(points, " ")
	c.Description = fmt.Sprintf("Use over the last %s: from %s to %s",
		formatSpan(c.Last.Sub(c.First)), formatSize(samples[0].Bytes),
		formatSize(samples[len(samples)-1].Bytes))
	return c
}
