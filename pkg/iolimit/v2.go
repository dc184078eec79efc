package iolimit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// v2 is io.max of the group of all pods (Documentation/admin-guide/cgroup-v2.rst, "IO Interface
// Files"). A limit there holds for all groups below together.
type v2 struct{ file string }

func (h v2) set(d Device, limits volume.IOLimits) error { return write(h.file, v2Line(d, limits)) }

// v2Line is a line of io.max as the kernel prints it (block/blk-throttle.c, tg_prfill_limit).
func v2Line(d Device, l volume.IOLimits) string {
	return fmt.Sprintf("%s rbps=%s wbps=%s riops=%s wiops=%s", d, orMax(l.ReadBytesPerSecond),
		orMax(l.WriteBytesPerSecond), orMax(l.ReadIOPS), orMax(l.WriteIOPS))
}

func orMax(n uint64) string {
	if n == 0 {
		return "max"
	}
	return strconv.FormatUint(n, 10)
}

func (h v2) limited() ([]Device, error) {
	content, err := os.ReadFile(h.file)
	return loopDevices(content), err
}

func (h v2) refresh(wanted map[Device]limited) (failed []Device, err error) {
	content, err := os.ReadFile(h.file)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for line := range bytes.Lines(content) {
		there[strings.TrimSpace(string(line))] = true
	}
	var errs []error
	for _, d := range sortedDevices(wanted) {
		limits := wanted[d].limits
		if there[v2Line(d, limits)] {
			continue
		}
		if err := h.set(d, limits); err != nil {
			failed, errs = append(failed, d), append(errs, err)
		}
	}
	return failed, errors.Join(errs...)
}

func sortedDevices(of map[Device]limited) []Device {
	return slices.SortedFunc(maps.Keys(of), func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor))
	})
}
