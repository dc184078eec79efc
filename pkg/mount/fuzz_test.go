package mount

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// FuzzParseOptions: no flags of a request remove a restriction, and no message has the value behind
// a flag's "=".
func FuzzParseOptions(f *testing.F) {
	for _, flags := range []string{
		"", "ro", "noexec,ro", "noatime,relatime", "suid", "password=hunter2", "ro,ro", "nodev,dev",
		"password-is-name=password-is-name",
	} {
		f.Add(flags)
	}
	f.Fuzz(func(t *testing.T, list string) {
		flags := strings.Split(list, ",")
		o, err := ParseOptions(flags)
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) || o != (Options{}) {
				t.Errorf("%+v, %v: want nothing and ErrInvalid", o, err)
			}
			checkNoValueIn(t, err, flags)
			return
		}
		if o.attributes&unix.MOUNT_ATTR_NOSUID == 0 || o.attributes&unix.MOUNT_ATTR_NODEV == 0 {
			t.Errorf("%q gives %s", flags, o)
		}
		if o.ReadOnly() != slices.Contains(flags, "ro") {
			t.Errorf("%q is read-only: %t", flags, o.ReadOnly())
		}
		slices.Reverse(flags)
		if reversed, err := ParseOptions(flags); reversed != o {
			t.Errorf("%q gives %+v, the other way round %+v, %v", list, o, reversed, err)
		}
	})
}

// checkNoValueIn fails if a message has what stands behind a flag's "=". A value that is also part
// of a flag's name, or too short to tell, proves nothing.
func checkNoValueIn(t *testing.T, err error, flags []string) {
	t.Helper()
	var names []string
	for _, flag := range flags {
		name, _, _ := strings.Cut(flag, "=")
		names = append(names, name)
	}
	for _, flag := range flags {
		_, value, _ := strings.Cut(flag, "=")
		if len(value) > 12 && strings.Contains(err.Error(), value) &&
			!strings.Contains(strings.Join(names, ","), value) {
			t.Errorf("%q is in %q", value, err)
		}
	}
}
