package volume

import (
	"errors"
	"math"
	"testing"
)

func TestSizeIsTheLeastOfTheRange(t *testing.T) {
	for _, tc := range []struct{ required, limit, size int64 }{
		{0, 0, DefaultCapacityBytes},
		{1, 0, 1},
		{1, 1, 1},
		{5, 7, 5},
		{0, 7, 7},
		{0, DefaultCapacityBytes + 1, DefaultCapacityBytes},
		{MaxCapacityBytes, 0, MaxCapacityBytes},
		{MaxCapacityBytes, math.MaxInt64, MaxCapacityBytes},
	} {
		r, err := ParseSizeRange(tc.required, tc.limit)
		if err != nil || r.Choose() != tc.size || !r.Contains(tc.size) {
			t.Errorf("%d to %d: %+v chooses %d, %v, want %d", tc.required, tc.limit, r, r.Choose(), err,
				tc.size)
		}
	}
}

func TestImpossibleRangeIsRefused(t *testing.T) {
	for _, tc := range []struct {
		required, limit int64
		want            error
	}{
		{-1, 0, ErrInvalid},
		{0, -1, ErrInvalid},
		{math.MinInt64, math.MinInt64, ErrInvalid},
		{2, 1, ErrOutOfRange},
		{math.MaxInt64, math.MaxInt64 - 1, ErrOutOfRange},
	} {
		if r, err := ParseSizeRange(tc.required, tc.limit); !errors.Is(err, tc.want) {
			t.Errorf("%d to %d: %+v, %v, want %v", tc.required, tc.limit, r, err, tc.want)
		}
	}
}

func TestExistingSizeSatisfiesItsRangeOnly(t *testing.T) {
	for _, tc := range []struct {
		r     SizeRange
		bytes int64
		want  bool
	}{
		{SizeRange{}, 1, true},
		{SizeRange{Required: 5}, 4, false},
		{SizeRange{Required: 5}, 5, true},
		{SizeRange{Required: 5}, math.MaxInt64, true},
		{SizeRange{Limit: 5}, 5, true},
		{SizeRange{Limit: 5}, 6, false},
		{SizeRange{Required: 5, Limit: 5}, 5, true},
	} {
		if got := tc.r.Contains(tc.bytes); got != tc.want {
			t.Errorf("%+v contains %d: %v, want %v", tc.r, tc.bytes, got, tc.want)
		}
	}
}

func FuzzParseSizeRange(f *testing.F) {
	f.Add(int64(0), int64(0))
	f.Add(int64(-1), int64(math.MaxInt64))
	f.Add(int64(math.MaxInt64), int64(1))
	f.Fuzz(func(t *testing.T, required, limit int64) {
		r, err := ParseSizeRange(required, limit)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrOutOfRange) {
				t.Errorf("%d to %d: %v wraps no sentinel", required, limit, err)
			}
			return
		}
		if size := r.Choose(); size <= 0 || size < required || limit > 0 && size > limit ||
			!r.Contains(size) {
			t.Errorf("%d to %d: chooses %d", required, limit, size)
		}
	})
}
