package record_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// FuzzDecodeVolume decodes any bytes, because a disk may hold anything. If they are accepted, the
// record is valid and belongs to this directory, and it stays the same when it is encoded and
// decoded again.
func FuzzDecodeVolume(f *testing.F) {
	const pool, dirName = volume.PoolID("0123456789ab"), "v"
	name, err := volume.ParseName(dirName)
	if err != nil {
		f.Fatal(err)
	}
	good, err := record.EncodeVolume(volume.Volume{
		Name:          name,
		CapacityBytes: 1 << 20,
		Created:       time.Unix(0, 1).UTC(),
		QuotaID:       7,
		Owner:         volume.Owner{PodUID: "uid"},
		Spec:          volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755, UID: 1, Inodes: 9},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.ReplaceAll(good, []byte(`"v"`), []byte(`"w"`)))
	f.Add(bytes.ReplaceAll(good, []byte("1048576"), []byte("-1")))
	f.Add(good[:len(good)/2])
	f.Add([]byte("null"))
	f.Add([]byte(`{"formatVersion":1e9}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		v, err := record.DecodeVolume(pool, dirName, content)
		if err != nil {
			if !errors.Is(err, volume.ErrCorrupt) || v != (volume.Volume{}) {
				t.Errorf("%+v, %v: want nothing and ErrCorrupt", v, err)
			}
			return
		}
		if v.ID.Dir() != dirName || v.ID.Pool() != pool || v.CapacityBytes <= 0 ||
			v.CapacityBytes > volume.MaxCapacityBytes {
			t.Errorf("%q is volume %+v", content, v)
		}
		once, err := record.EncodeVolume(v)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", v, err)
		}
		again, err := record.DecodeVolume(pool, dirName, once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice, err := record.EncodeVolume(again); !bytes.Equal(once, twice) {
			t.Errorf("%s is written as %s, %v", once, twice, err)
		}
	})
}

// FuzzDecodePool: bytes that are no marker of this driver are never accepted as one.
func FuzzDecodePool(f *testing.F) {
	f.Add(
		[]byte(
			`{"formatVersion":1,"uuid":"4dd36c98-b99b-4000-8000-000000000000","created":"2026-11-22T07:46:31Z"}`,
		),
	)
	f.Add([]byte(`{"formatVersion":2,"uuid":"4dd36c98-b99b-4000-8000-000000000000"}`))
	f.Add([]byte(`{"formatVersion":1,"uuid":"----------------"}`))
	f.Add([]byte(`{"formatVersion":1,"uuid":"4DD36C98\u00e9"}`))
	f.Add([]byte(`{"formatVersion":-1}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, content []byte) {
		m, err := record.DecodePool(content)
		if err != nil {
			if !errors.Is(err, volume.ErrCorrupt) && !errors.Is(err, volume.ErrUnavailable) ||
				m != (record.Pool{}) {
				t.Errorf("%+v, %v: want nothing and ErrCorrupt or ErrUnavailable", m, err)
			}
			return
		}
		id, err := m.ID()
		if err != nil && !errors.Is(err, volume.ErrCorrupt) {
			t.Errorf("%v, want ErrCorrupt", err)
		}
		if parsed, parseErr := volume.ParsePoolID(string(id)); err == nil &&
			(parsed != id || parseErr != nil) {
			t.Errorf("%q gives pool ID %q: %v", content, id, parseErr)
		}
	})
}
