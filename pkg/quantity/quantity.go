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
