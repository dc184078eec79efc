package hostpath

import (
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestNothingIsAllowedByDefault(t *testing.T) {
	h := NewHost("/", NewRules(nil))
	for _, path := range []string{"/srv", "/etc", "/tmp/x", "/dev/null"} {
		for _, wanted := range volume.Types() {
			wantError(t, h.Check(Use{Path: path, Type: wanted}), volume.ErrForbidden, path, string(wanted),
				"no hostPaths rule")
		}
	}
}

func TestRefusalNamesTheRuleThatIsMissing(t *testing.T) {
	h := NewHost("/", NewRules([]Rule{
		{Path: "/srv/shared", Namespaces: []string{"team-a"}, Inline: true},
		{Path: "/srv/pv"},
		{Path: "/srv/files", Types: []volume.Type{volume.File}},
		{Path: "/dev/null", Types: []volume.Type{volume.CharDevice}},
	}))
	for _, tc := range []struct {
		use  Use
		want string // empty: allowed
	}{
		{Use{Path: "/srv/shared", Type: volume.Directory, Namespace: "team-a", Inline: true}, ""},
		{Use{Path: "/srv/shared/deep/er", Type: volume.Socket, Namespace: "team-a"}, ""},
		{Use{Path: "/srv/pv/x", Type: volume.Directory, Namespace: "any"}, ""},
		{Use{Path: "/srv/files/x", Type: volume.File}, ""},
		{Use{Path: "/dev/null", Type: volume.CharDevice}, ""},
		{Use{Path: "/srv/shared", Type: volume.Directory, Namespace: "team-b"}, "is for the namespaces [team-a]"},
		{Use{Path: "/srv/shared", Type: volume.Directory}, "is for the namespaces [team-a], and the request names none: external-provisioner needs --extra-create-metadata"},
		{Use{Path: "/srv/pv", Type: volume.Directory, Inline: true}, "as an inline volume: the one for /srv/pv does not set inline: true"},
		{Use{Path: "/srv/files/x", Type: volume.Directory}, "is for the types [File]"},
		{Use{Path: "/srv/pv/dev", Type: volume.CharDevice}, "names no device types"},
		{Use{Path: "/srv/sharedx", Type: volume.Directory}, "there is none for the path or a directory above it"},
		{Use{Path: "/srv", Type: volume.Directory}, "there is none for the path or a directory above it"},
	} {
		err := h.Check(tc.use)
		if tc.want != "" {
			wantError(t, err, volume.ErrForbidden, tc.use.Path, tc.want)
		} else if err != nil {
			t.Errorf("%+v: %v", tc.use, err)
		}
	}
}

func TestRuleForWhatIsNeverOfferedIsAFault(t *testing.T) {
	devices := []volume.Type{volume.CharDevice, volume.BlockDevice}
	for _, tc := range []struct {
		rule Rule
		want string // empty: no fault
	}{
		{Rule{Path: "/srv"}, ""},
		{Rule{Path: "/var/log/app"}, ""},
		{Rule{Path: "/var/log", ReadOnly: true}, ""},
		{Rule{Path: "/usr/share/zoneinfo", ReadOnly: true}, ""},
		{Rule{Path: "/dev/fuse", Types: devices}, ""},
		{Rule{Path: "/dev/fuse", Types: devices, ReadOnly: true}, "readOnly keeps nobody from writing to a device"},
		{Rule{Path: "/srv", Types: volume.Types(), ReadOnly: true}, "readOnly keeps nobody from writing to a device"},
		{Rule{Path: "/data/pools2"}, ""},
		{Rule{Path: "/run/app.sock"}, ""},
		{Rule{Path: "/"}, "not /"},
		{Rule{Path: "srv"}, "absolute"},
		{Rule{Path: "/srv/../etc"}, "clean"},
		{Rule{Path: "/srv/"}, "clean"},
		{Rule{Path: "/etc"}, "/etc is never offered"},
		{Rule{Path: "/etc/nginx", ReadOnly: true}, "/etc is never offered"},
		{Rule{Path: "/proc/1/root"}, "/proc is never offered"},
		{Rule{Path: "/sys"}, "/sys is never offered"},
		{Rule{Path: "/dev"}, "/dev is never offered"},
		{Rule{Path: "/dev", Types: devices}, "/dev is never offered"},
		{Rule{Path: "/dev/fuse"}, "/dev is never offered, nor a directory above it; for one device the rule needs types: [BlockDevice]"},
		{Rule{Path: "/var"}, "never offered"},
		{Rule{Path: "/var/lib", ReadOnly: true}, "never offered"},
		{Rule{Path: "/var/lib/kubelet/pods"}, "/var/lib/kubelet is never offered"},
		{Rule{Path: "/run"}, "never offered"},
		{Rule{Path: "/run/containerd/containerd.sock", ReadOnly: true}, "/run/containerd is never offered"},
		{Rule{Path: "/var/log"}, "unless the rule has readOnly: true"},
		{Rule{Path: "/usr/local"}, "unless the rule has readOnly: true"},
		{Rule{Path: "/data"}, "/data/pools is never offered"},
		{Rule{Path: "/data/pools/fast/volumes"}, "/data/pools is never offered"},
	} {
		err := NewRules([]Rule{tc.rule}, "/data/pools").Validate(tc.rule)
		if tc.want != "" {
			wantError(t, err, volume.ErrForbidden, tc.want)
		} else if err != nil {
			t.Errorf("%+v: %v", tc.rule, err)
		}
	}
}

func TestStricterRuleBelowAnotherIsAFault(t *testing.T) {
	files := []volume.Type{volume.File}
	for _, tc := range []struct {
		title        string
		above, below Rule
		stricter     string // empty: no fault
	}{
		{"the same", Rule{}, Rule{}, ""},
		{"wider", Rule{ReadOnly: true, Namespaces: []string{"a"}}, Rule{Inline: true}, ""},
		{"read-only", Rule{}, Rule{ReadOnly: true}, "readOnly of its rule"},
		{"not inline", Rule{Inline: true}, Rule{}, "inline of its rule"},
		{"fewer namespaces", Rule{}, Rule{Namespaces: []string{"a"}}, "namespaces of its rule"},
		{"other namespaces", Rule{Namespaces: []string{"a", "b"}}, Rule{Namespaces: []string{"a"}}, "namespaces of its rule"},
		{"more namespaces", Rule{Namespaces: []string{"a"}}, Rule{Namespaces: []string{"a", "b"}}, ""},
		{"above gives no directories", Rule{Types: files}, Rule{ReadOnly: true}, ""},
	} {
		tc.above.Path, tc.below.Path = "/srv", "/srv/below"
		rules := NewRules([]Rule{tc.above, tc.below})
		if err := rules.Validate(tc.above); err != nil {
			t.Errorf("%s: %v", tc.title, err)
		}
		err := rules.Validate(tc.below)
		if tc.stricter != "" {
			wantError(t, err, volume.ErrForbidden, tc.stricter)
		} else if err != nil {
			t.Errorf("%s: %v", tc.title, err)
		}
	}
}
