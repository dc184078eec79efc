package volume

import (
	"errors"
	"strings"
	"testing"
)

func TestParametersBecomeASpec(t *testing.T) {
	for _, tc := range []struct {
		title  string
		params map[string]string
		want   Parameters
	}{
		{"none", nil, Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o755}}},
		{"directory", map[string]string{"type": "DirectoryOrCreate"}, Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o755}}},
		{"file", map[string]string{"type": "FileOrCreate"}, Parameters{Spec: Spec{Type: FileOrCreate, Mode: 0o644}}},
		{"mode", map[string]string{"mode": "0750"}, Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o750}}},
		{"mode zero", map[string]string{"mode": "0"}, Parameters{Spec: Spec{Type: DirectoryOrCreate}}},
		{"setgid and sticky", map[string]string{"mode": "3777"}, Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o3777}}},
		{"file of no mode", map[string]string{"mode": "0", "type": "FileOrCreate"}, Parameters{Spec: Spec{Type: FileOrCreate}}},
		{"owner", map[string]string{"uid": "1000", "gid": "4294967294"}, Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o755, UID: 1000, GID: 4294967294}}},
		{"inodes", map[string]string{"inodes": "4294967295"}, Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o755, Inodes: 4294967295}}},
		{"pool", map[string]string{"pool": "fast"}, Parameters{Pool: "fast", Spec: Spec{Type: DirectoryOrCreate, Mode: 0o755}}},
		{
			"provisioner's metadata",
			map[string]string{ParamPVCName: "data", ParamPVCNamespace: "shop", ParamPVName: "pvc-1"},
			Parameters{
				Spec:  Spec{Type: DirectoryOrCreate, Mode: 0o755},
				Owner: Owner{Namespace: "shop", Claim: "data", PV: "pvc-1"},
			},
		},
	} {
		t.Run(tc.title, func(t *testing.T) {
			if got, err := ParseParameters(tc.params); got != tc.want || err != nil {
				t.Errorf("got %+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
}

func TestBadParameterIsRefusedByName(t *testing.T) {
	for _, tc := range []struct{ key, value string }{
		{"Type", "DirectoryOrCreate"},
		{"path", "/etc"},
		{"", ""},
		{"csi.storage.k8s.io/fstype", "ext4"},
		{"type", ""},
		{"type", "Directory"},
		{"type", "directoryorcreate"},
		{"mode", ""},
		{"mode", "0o755"},
		{"mode", "0x1ff"},
		{"mode", "-1"},
		{"mode", "+755"},
		{"mode", "0758"},
		{"mode", "rwxr-xr-x"},
		{"mode", "4755"},
		{"mode", "10000"},
		{"mode", "7_5_5"},
		{"mode", "99999999999999999999"},
		{"uid", ""},
		{"uid", "-1"},
		{"uid", "root"},
		{"uid", "1.5"},
		{"uid", "4294967295"}, // (uid_t)-1: chown(2) would leave the owner as it is
		{"gid", "4294967296"},
		{"inodes", ""},
		{"inodes", "0"},
		{"inodes", "1"}, // only the volume's root
		{"inodes", "-5"},
		{"inodes", "10k"},
		{"inodes", "4294967296"},
		{"gid", "1\x00"},
	} {
		_, err := ParseParameters(map[string]string{tc.key: tc.value})
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `"`+tc.key+`"`) {
			t.Errorf("%s=%q: %v, want ErrInvalid naming the key", tc.key, tc.value, err)
		}
	}
}

func TestFileTakesNoSetgidOrStickyBit(t *testing.T) {
	for _, mode := range []string{"2644", "1644", "3777"} {
		if p, err := ParseParameters(
			map[string]string{"type": "FileOrCreate", "mode": mode},
		); !errors.Is(
			err, ErrInvalid,
		) {
			t.Errorf("mode %s: %+v, %v, want ErrInvalid", mode, p, err)
		}
	}
}

func TestOnlyADirectoryOfAPoolTakesInodes(t *testing.T) {
	for _, params := range []map[string]string{
		{"inodes": "10", "type": "FileOrCreate"},
		{"inodes": "10", "type": "Directory", "path": "/srv"},
		{"inodes": "10", "type": "DirectoryOrCreate", "path": "/srv"},
	} {
		if p, err := ParseParameters(params); !errors.Is(err, ErrInvalid) ||
			!strings.Contains(err.Error(), `"inodes"`) {
			t.Errorf("%v: %+v, %v, want ErrInvalid naming the key", params, p, err)
		}
	}
}

func TestEveryParameterKeyIsTaken(t *testing.T) {
	for _, key := range ParameterKeys() {
		if _, ok := classSetters()[key]; !ok {
			t.Errorf("key %q is listed and not read", key)
		}
	}
}

func FuzzParseParameters(f *testing.F) {
	f.Add("type", "FileOrCreate", "mode", "0644")
	f.Add("uid", "0", "gid", "4294967295")
	f.Add("pool", "../..", "path", "/etc")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		p, err := ParseParameters(map[string]string{k1: v1, k2: v2})
		if err != nil {
			if !errors.Is(err, ErrInvalid) || p != (Parameters{}) {
				t.Errorf("%+v, %v: want nothing and ErrInvalid", p, err)
			}
			return
		}
		if p.Spec.Mode > 0o3777 || p.Spec.UID == 1<<32-1 || p.Spec.GID == 1<<32-1 {
			t.Errorf("%q=%q %q=%q gives %+v", k1, v1, k2, v2, p)
		}
		if p.Spec.Type == FileOrCreate && p.Spec.Mode > 0o777 {
			t.Errorf("%q=%q %q=%q gives a file of mode %#o", k1, v1, k2, v2, p.Spec.Mode)
		}
	})
}
