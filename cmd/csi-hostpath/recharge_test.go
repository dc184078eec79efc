package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
)

// test/quotas has files that count for another project: that takes a filesystem with quotas.
func TestRechargeNeedsAPool(t *testing.T) {
	dir, _ := poolWithVolume(t)
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{nil, command.ExitUsage, "give --pool"},
		{[]string{"--pool", filepath.Join(dir, "absent")}, command.ExitFailure, "no such file"},
		{[]string{"--pool", dir}, command.ExitOK, "Every file that was looked at counts for its volume."},
	} {
		code, out, errs := call(nil, append([]string{"recharge"}, tc.args...)...)
		if code != tc.code || !strings.Contains(out+errs, tc.want) {
			t.Errorf("recharge %q: %d, %q, %q; want %d and %q", tc.args, code, out, errs, tc.code, tc.want)
		}
	}
}
