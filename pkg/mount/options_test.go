package mount

import (
	"errors"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestMountFlagThatIsNotOfferedIsRefusedByName(t *testing.T) {
	for _, flags := range [][]string{
		{"suid"},
		{"dev"},
		{"exec"},
		{"rw"},
		{"bind"},
		{"remount"},
		{"RO"},
		{" ro"},
		{"ro,noexec"},
		{""},
		{"noexec", "uid=0"},
		{"context=system_u:object_r:etc_t:s0"},
		{"ro\x00"},
	} {
		_, err := ParseOptions(flags)
		name, value, _ := strings.Cut(flags[len(flags)-1], "=")
		if !errors.Is(err, volume.ErrInvalid) ||
			!strings.Contains(err.Error(), strings.TrimSuffix(name, "\x00")) {
			t.Errorf("%q: %v, want ErrInvalid naming %q", flags, err, name)
		}
		if value != "" && strings.Contains(err.Error(), value) {
			t.Errorf("%q: %v tells the value, which may be a password", flags, err)
		}
	}
}

func TestContradictingAccessTimesAreRefused(t *testing.T) {
	for _, flags := range [][]string{
		{"noatime", "relatime"},
		{"strictatime", "noatime"},
		{"relatime", "nodiratime", "strictatime"},
	} {
		if _, err := ParseOptions(flags); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", flags, err)
		}
	}
}

func TestEveryFlagIsTakenAlsoTwice(t *testing.T) {
	for _, flag := range FlagNames() {
		once, err := ParseOptions([]string{flag})
		if err != nil {
			t.Errorf("%s: %v", flag, err)
		}
		if twice, err := ParseOptions([]string{flag, flag}); twice != once || err != nil {
			t.Errorf("%s twice: %v, %v", flag, twice, err)
		}
		if once.ReadOnly() != (flag == "ro") || !once.AsReadOnly().ReadOnly() {
			t.Errorf("%s: read-only is %v, %v", flag, once.ReadOnly(), once.AsReadOnly().ReadOnly())
		}
		if s := once.String(); !strings.Contains(s, "nosuid") || !strings.Contains(s, "nodev") {
			t.Errorf("%s gives %s, without what is always on", flag, s)
		}
	}
}
