package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// test/quotas has files that count for another project: that takes a filesystem with quotas.
func TestRechargeNeedsAPool(t *testing.T) {
	dir, _ := poolWithVolume(t)
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "give --pool"},
		{[]string{"--pool", filepath.Join(dir, "absent")}, exitFailure, "no such file"},
		{[]string{"--pool", dir}, exitOK, "Every file that was looked at counts for its volume."},
	} {
		code, out, errs := call(nil, append([]string{"recharge"}, tc.args...)...)
		if code != tc.code || !strings.Contains(out+errs, tc.want) {
			t.Errorf("recharge %q: %d, %q, %q; want %d and %q", tc.args, code, out, errs, tc.code, tc.want)
		}
	}
}
