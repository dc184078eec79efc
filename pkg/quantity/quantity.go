// Package quantity reads sizes in bytes as Kubernetes writes them, from configuration files and from hostile pods.
package quantity

import (
	"math"
	"regexp"

	"k8s.io/apimachinery/pkg/api/resource"
)

// plain keeps exponents small: resource.ParseQuantity would compute 1e999999999 digit by digit.
var plain = regexp.MustCompile(`^[0-9]{1,19}(\.[0-9]{1,9})?([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?$`)

// Parse reads a number of bytes, such as 10Gi, 0 or more and below 8Ei; a fraction of a byte counts as one.
func Parse(text string) (int64, error) {
	if !plain.MatchString(text) {
		return 0, resource.ErrFormatWrong
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, err
	}
	// Compared before it is an int64: Value wraps around, and the parser may have cut to the largest one.
	if q.Sign() >= 0 && q.CmpInt64(math.MaxInt64) < 0 {
		return q.Value(), nil
	}
	return 0, resource.ErrNumeric
}
