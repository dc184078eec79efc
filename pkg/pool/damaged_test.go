package pool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestDamagedVolumeKeepsItsNameAndCanBeDeleted(t *testing.T) {
	const rest = `"spec":{"type":"DirectoryOrCreate","mode":493,"uid":0,"gid":0},"created":"2026-01-01T00:00:00Z"`
	for _, tc := range []struct{ title, record string }{
		{"empty", ""},
		{"truncated", `{"formatVersion":1,"name":"v","sp`},
		{"zeroed, as after a power cut", strings.Repeat("\x00", 200)},
		{"not an object", `[]`},
		{"of another volume", `{"formatVersion":1,"name":"w","capacityBytes":1048576,` + rest + `}`},
		{"of a hostile name", `{"formatVersion":1,"name":"../v","capacityBytes":1048576,` + rest + `}`},
		{"of no name", `{"formatVersion":1,"capacityBytes":1048576,` + rest + `}`},
		{"newer", `{"formatVersion":3,"name":"v","capacityBytes":1048576,` + rest + `}`},
		{"of a negative version", `{"formatVersion":-1,"name":"v","capacityBytes":1048576,` + rest + `}`},
		{"older than the first", `{"formatVersion":0,"name":"v","capacityBytes":1048576,` + rest + `}`},
		{"of an unknown type", `{"formatVersion":1,"name":"v","capacityBytes":1048576,"spec":{"type":"Socket"}}`},
		{"of no size", `{"formatVersion":1,"name":"v",` + rest + `}`},
		{"of a negative size", `{"formatVersion":1,"name":"v","capacityBytes":-1048576,` + rest + `}`},
		{"of a size beyond int64", `{"formatVersion":1,"name":"v","capacityBytes":9223372036854775808,` + rest + `}`},
		{"of an unknown backing", withSpec(`"backing":"tape"`)},
		{"of an unknown filesystem", withSpec(`"backing":"image","fsType":"ntfs","allocation":"sparse"`)},
		{"of a directory with a filesystem", withSpec(`"fsType":"xfs"`)},
		{"of a filesystem larger than its image", withSpec(xfsSpec, `"filesystemBytes":1048577`)},
		{"of a filesystem of a negative size", withSpec(xfsSpec, `"filesystemBytes":-1`)},
		{"of a raw block volume with a filesystem", withSpec(`"backing":"image","allocation":"sparse"`, `"filesystemBytes":1048576`)},
		{"endless", `{"formatVersion":1,"name":"v","x":"` + strings.Repeat("x", 1<<20) + `",` + rest + `}`},
	} {
		t.Run(tc.title, func(t *testing.T) {
			p, damaged := newPoolWithTwo(t)
			closePool(t, p)
			if err := os.WriteFile(
				filepath.Join(p.opts.Path, layout.VolumesDir, "v", record.VolumeFile),
				[]byte(tc.record),
				0o600,
			); err != nil {
				t.Fatal(err)
			}
			p = openPool(t, p.opts)
			wantDamaged(t, p, damaged)
		})
	}
}

const xfsSpec = `"backing":"image","fsType":"xfs","allocation":"sparse"`

// withSpec returns the record of a volume of 1 MiB, with more fields in its specification and
// beside it.
func withSpec(spec string, more ...string) string {
	text := `{"formatVersion":1,"name":"v","capacityBytes":1048576,"spec":{"type":"DirectoryOrCreate",` + spec + `}`
	return strings.Join(append([]string{text}, more...), ",") + "}"
}

func TestVolumeWithoutAReadableRecordIsDamaged(t *testing.T) {
	for _, tc := range []struct{ title, instead string }{
		{"missing", ""},
		{"a directory", "directory"},
		{"a link to a good one", "link"},
	} {
		t.Run(tc.title, func(t *testing.T) {
			p, damaged := newPoolWithTwo(t)
			closePool(t, p)
			path := filepath.Join(p.opts.Path, layout.VolumesDir, "v", record.VolumeFile)
			if err := os.Rename(
				path,
				filepath.Join(p.opts.Path, layout.VolumesDir, "v", "elsewhere"),
			); err != nil {
				t.Fatal(err)
			}
			var err error
			switch tc.instead {
			case "directory":
				err = os.Mkdir(path, 0o700)
			case "link":
				err = os.Symlink("elsewhere", path)
			}
			if err != nil {
				t.Fatal(err)
			}
			p = openPool(t, p.opts)
			wantDamaged(t, p, damaged)
		})
	}
}

// newPoolWithTwo has the volumes v and bystander, each with a file.
func newPoolWithTwo(t *testing.T) (*Pool, volume.Volume) {
	t.Helper()
	p := newPool(t)
	for _, name := range []string{"v", "bystander"} {
		v := create(t, p, name, mib)
		writeTree(t, dataPath(p, v.ID), map[string]string{"file": "precious"})
	}
	v, err := p.Get(create(t, p, "v", mib).ID)
	if err != nil {
		t.Fatal(err)
	}
	return p, v.Volume
}

func wantDamaged(t *testing.T, p *Pool, v volume.Volume) {
	t.Helper()
	if _, err := p.Get(v.ID); !errors.Is(err, volume.ErrCorrupt) ||
		!strings.Contains(err.Error(), v.ID.String()) {
		t.Errorf("get: %v, want ErrCorrupt naming the volume", err)
	} else if errors.Is(
		err, volume.ErrInvalid,
	) {
		t.Errorf("get: %v blames the caller", err)
	}
	if _, err := openData(p, v.ID); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("data: %v, want ErrCorrupt", err)
	}
	if _, err := p.Create(t.Context(), request(t, "v", mib)); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("create: %v, want ErrCorrupt", err)
	}
	if got := p.List("", 10); len(got) != 2 || got[1].ID != v.ID {
		t.Errorf("list: %v, want the damaged volume in it", got)
	}
	for _, name := range []string{"v", "bystander"} {
		if content, err := os.ReadFile(
			filepath.Join(p.opts.Path, layout.VolumesDir, name, backend.Data, "file"),
		); string(
			content,
		) != "precious" {
			t.Errorf("data of %s is %q, %v", name, content, err)
		}
	}
	if data, err := p.AnyData(v.ID); err != nil {
		t.Errorf("to see whether it is published: %v", err)
	} else {
		data.Close()
	}
	remove(t, p, v.ID)
	waitPurged(t, p)
	wantEntries(t, p, layout.VolumesDir, "bystander")
	create(t, p, "v", mib)
	wantLedger(t, p, 2*mib, 0)
}

func TestRecordThatDisagreesWithItsDataIsCorrupt(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	writeTree(t, secret, map[string]string{"/": ""})
	for _, tc := range []struct{ title, instead string }{
		{"missing", ""},
		{"a file", "file"},
		{"a link to a directory of the host", "link"},
	} {
		t.Run(tc.title, func(t *testing.T) {
			p, v := newPoolWithTwo(t)
			data := dataPath(p, v.ID)
			if err := os.RemoveAll(data); err != nil {
				t.Fatal(err)
			}
			var err error
			switch tc.instead {
			case "file":
				err = os.WriteFile(data, nil, 0o600)
			case "link":
				err = os.Symlink(secret, data)
			}
			if err != nil {
				t.Fatal(err)
			}
			if f, err := openData(p, v.ID); !errors.Is(err, volume.ErrCorrupt) {
				t.Errorf("%v, %v, want ErrCorrupt", f, err)
			}
			remove(t, p, v.ID)
			waitPurged(t, p)
			if got := entries(t, filepath.Dir(secret)); len(got) != 1 {
				t.Errorf("the host's directory has gone: %q", got)
			}
		})
	}
}

// A directory that no CreateVolume could have made is left alone, and is in no list.
func TestForeignEntryInVolumesIsLeftAlone(t *testing.T) {
	p := newPool(t)
	create(t, p, "v", mib)
	closePool(t, p)
	writeTree(t, filepath.Join(p.opts.Path, layout.VolumesDir),
		map[string]string{"lost+found/#12": "", ".hidden": "", "s-1/data": ""})
	p = openPool(t, p.opts)
	if got := p.List("", 10); len(got) != 1 {
		t.Errorf("list: %v", got)
	}
	wantEntries(t, p, layout.VolumesDir, ".hidden", "lost+found", "s-1", "v")
}

func TestVolumeOfAnotherPoolIsNotFound(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	other := volume.NewID("ffffffffffff", v.Name)
	if _, err := p.Get(other); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("get: %v, want ErrNotFound", err)
	}
	if _, err := openData(p, other); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("data: %v, want ErrNotFound", err)
	}
}
