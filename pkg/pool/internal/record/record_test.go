package record_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	volumeJSON = `{
  "formatVersion": 2,
  "name": "pvc/1",
  "spec": {
    "type": "DirectoryOrCreate",
    "mode": 488,
    "uid": 1000,
    "gid": 2000,
    "backing": "image",
    "fsType": "ext4",
    "allocation": "sparse"
  },
  "capacityBytes": 1048576,
  "sharedBytes": 4096,
  "created": "2026-11-22T07:46:31.000000005Z",
  "owner": {
    "namespace": "ns",
    "claim": "data"
  },
  "source": {
    "snapshot": "0123456789ab-s-s1"
  },
  "quotaTag": 7,
  "filesystemBytes": 524288
}
`
	snapshotJSON = `{
  "formatVersion": 1,
  "name": "s1",
  "sourceVolume": "0123456789ab-pvc-1",
  "sourceCreated": "2026-11-22T07:46:31Z",
  "spec": {
    "type": "DirectoryOrCreate",
    "mode": 493,
    "uid": 0,
    "gid": 0,
    "inodes": 9
  },
  "restoreBytes": 1048576,
  "heldBytes": 4096,
  "created": "2026-11-22T07:46:32Z",
  "owner": {
    "snapshot": "nightly"
  },
  "quotaTag": 8,
  "sourceQuotaTag": 7
}
`
)

// A driver that does not know content of git reads its record as that of a directory.
func TestContentOfGitNeedsNoFormatOfItsOwn(t *testing.T) {
	name, err := volume.ParseName("git-1")
	if err != nil {
		t.Fatal(err)
	}
	v := volume.Volume{
		ID: volume.NewID("0123456789ab", name), Name: name, CapacityBytes: 1,
		Spec:  volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
		Owner: volume.Owner{Namespace: "web", Git: "https://git.example.com/site"},
	}
	content, err := record.EncodeVolume(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"formatVersion": 1`, `"git": "https://git.example.com/site"`, `"namespace": "web"`,
	} {
		if !strings.Contains(string(content), want) {
			t.Errorf("%s has no %s", content, want)
		}
	}
}

// TestRecordsKeepTheirBytes decodes records of the first release and encodes them again. The bytes
// stay the same, so that older drivers and people's scripts can read the records.
func TestRecordsKeepTheirBytes(t *testing.T) {
	const pool = volume.PoolID("0123456789ab")
	name, err := volume.ParseName("pvc/1")
	if err != nil {
		t.Fatal(err)
	}
	v, err := record.DecodeVolume(pool, name.Dir(), []byte(volumeJSON))
	if err != nil {
		t.Fatal(err)
	}
	if v.CapacityBytes != 1<<20 || v.SharedBytes != 4096 || v.QuotaID != 7 ||
		v.Owner.Claim != "data" ||
		v.FilesystemBytes != 1<<19 ||
		!v.Created.Equal(time.Date(2026, 11, 22, 7, 46, 31, 5, time.UTC)) {
		t.Errorf("read as %+v", v)
	}
	if again, err := record.EncodeVolume(v); string(again) != volumeJSON || err != nil {
		t.Errorf("written as %s, %v", again, err)
	}
	s, err := record.DecodeSnapshot(pool, "s1", []byte(snapshotJSON))
	if err != nil {
		t.Fatal(err)
	}
	if s.Source.Dir() != "pvc-1" || s.HeldBytes != 4096 || s.QuotaID != 8 || s.SourceQuotaID != 7 {
		t.Errorf("read as %+v", s)
	}
	if again, err := record.EncodeSnapshot(s); string(again) != snapshotJSON || err != nil {
		t.Errorf("written as %s, %v", again, err)
	}
}

// TestRecordKeepsWhatAVolumeAttributesClassSays reads what it has written, and refuses what no
// class can say. A record without the field is one of a volume without a class.
func TestRecordKeepsWhatAVolumeAttributesClassSays(t *testing.T) {
	const pool = volume.PoolID("0123456789ab")
	name, err := volume.ParseName("pvc/1")
	if err != nil {
		t.Fatal(err)
	}
	v, err := record.DecodeVolume(pool, name.Dir(), []byte(volumeJSON))
	if err != nil || v.Mutable != (volume.Mutable{}) {
		t.Fatalf("read as %+v, %v, want no class", v.Mutable, err)
	}
	want := volume.Mutable{
		IO:             volume.IOLimits{ReadIOPS: 100, WriteBytesPerSecond: 1 << 20},
		TrashRetention: "72h0m0s",
	}
	v.Mutable = want
	content, err := record.EncodeVolume(v)
	if err != nil {
		t.Fatal(err)
	}
	again, err := record.DecodeVolume(pool, name.Dir(), content)
	if err != nil || again.Mutable != want {
		t.Errorf("%s is read as %+v, %v", content, again.Mutable, err)
	}
	for right, wrong := range map[string]string{
		`"72h0m0s"`: `"soon"`, `"readIops": 100`: `"readIops": 4294967296`,
	} {
		content := strings.Replace(string(content), right, wrong, 1)
		_, err := record.DecodeVolume(pool, name.Dir(), []byte(content))
		if !errors.Is(err, volume.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", wrong, err)
		}
	}
}

// TestWhatIsNoSnapshotIsCorrupt has one fault for each check. The error is ErrCorrupt, never the
// sentinel of a bad request.
func TestWhatIsNoSnapshotIsCorrupt(t *testing.T) {
	const rest = `"sourceVolume":"0123456789ab-v","spec":{"type":"DirectoryOrCreate"}`
	for _, tc := range []struct{ title, content string }{
		{"newer", `{"formatVersion":2,"name":"s","restoreBytes":1,` + rest + `}`},
		{"of another snapshot", `{"formatVersion":1,"name":"t","restoreBytes":1,` + rest + `}`},
		{"of no size", `{"formatVersion":1,"name":"s",` + rest + `}`},
		{"holding less than nothing", `{"formatVersion":1,"name":"s","restoreBytes":1,"heldBytes":-1,` + rest + `}`},
		{"with a filesystem and no image", `{"formatVersion":1,"name":"s","restoreBytes":2,"filesystemBytes":1,` + rest + `}`},
		{"of no source", `{"formatVersion":1,"name":"s","restoreBytes":1,"spec":{"type":"DirectoryOrCreate"}}`},
		{"of an unknown type", `{"formatVersion":1,"name":"s","restoreBytes":1,"sourceVolume":"0123456789ab-v"}`},
	} {
		t.Run(tc.title, func(t *testing.T) {
			s, err := record.DecodeSnapshot("0123456789ab", "s", []byte(tc.content))
			if s != (volume.Snapshot{}) || !errors.Is(err, volume.ErrCorrupt) ||
				errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%+v, %v: want nothing and ErrCorrupt alone", s, err)
			}
		})
	}
}
