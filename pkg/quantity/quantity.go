// Package quantity reads sizes in bytes as Kubernetes writes them, from configuration files and
// from hostile pods.
package quantity

import (
	"errors"
	"fmt"
	"math"
	"regexp"

	"k8s.io/apimachinery/pkg/api/resource"
)

// plain bounds exponents, because resource.ParseQuantity computes 1e999999999 digit by digit.
var plain = regexp.MustCompile(`^[0-9]{1,19}(\.[0-9]{1,9})?([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?$`)

var errNotASize = errors.New(
	"want a size in bytes of 0 to less than 8Ei, such as 10Gi, 500M or 1048576",
)

// Parse reads a number of bytes, such as 10Gi, from 0 to less than 8Ei. It rounds up.
func Parse(text string) (int64, error) {
	if !plain.MatchString(text) {
		return 0, errNotASize
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fmt.Errorf("%w (%w)", errNotASize, err)
	}
	// Compared before the conversion: Value wraps around, and the parser may have truncated to the
	// largest int64.
	if q.Sign() >= 0 && q.CmpInt64(math.MaxInt64) < 0 {
		return q.Value(), nil
	}
	return 0, errNotASize
}

// Format writes a number of bytes for people, such as 3.1 GiB. It rounds down, so that what is not
// complete does not seem so.
func Format(bytes int64) string {
	const step, units = 1024, "KMGTPE"
	if bytes < step {
		return fmt.Sprintf("%d bytes", bytes)
	}
	unit, divisor := 0, int64(step)
	for bytes/divisor >= step {
		divisor *= step
		unit++
	}
	whole := bytes / divisor
	tenths := min(9, int64(10*float64(bytes%divisor)/float64(divisor)))
	if whole >= 10 || tenths == 0 {
		return fmt.Sprintf("%d %ciB", whole, units[unit])
	}
	return fmt.Sprintf("%d.%d %ciB", whole, tenths, units[unit])
}
