package output

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
)

// None is the cell of what there is not, and Unknown the one of what is not known.
const (
	None    = "<none>"
	Unknown = "<unknown>"
)

// Bytes is a size in the units of Kubernetes, with three digits: 1.25Gi.
func Bytes(n int64) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	size, unit := float64(n), ""
	for _, next := range []string{"Ki", "Mi", "Gi", "Ti", "Pi", "Ei"} {
		if size < 1000 {
			break
		}
		size, unit = size/1024, next
	}
	switch {
	case unit == "" || size >= 100 || size == float64(int64(size)):
		return fmt.Sprintf("%s%.0f%s", sign, size, unit)
	case size >= 10:
		return fmt.Sprintf("%s%.1f%s", sign, size, unit)
	}
	return fmt.Sprintf("%s%.2f%s", sign, size, unit)
}

// BytesOf is a size that may be unknown.
func BytesOf(n *int64) string {
	if n == nil {
		return Unknown
	}
	return Bytes(*n)
}

// Percent is a part of a whole: 42%.
func Percent(part, whole int64) string {
	if whole <= 0 {
		return Unknown
	}
	return fmt.Sprintf("%.0f%%", 100*float64(part)/float64(whole))
}

// PercentOf is a part, which may be unknown, of a whole.
func PercentOf(part *int64, whole int64) string {
	if part == nil {
		return Unknown
	}
	return Percent(*part, whole)
}

// Age is the time since t, as kubectl has it.
func Age(t, now time.Time) string {
	if t.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(now.Sub(t))
}

// Text is a text, or None if it is empty.
func Text(s string) string {
	if s == "" {
		return None
	}
	return s
}
