package volume

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

func parseMutable(params map[string]string) (Changes, error) {
	return ParseMutable(params, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
}

func TestMutableParametersChangeOnlyWhatTheyName(t *testing.T) {
	has := Mutable{IO: IOLimits{ReadIOPS: 100, WriteIOPS: 200}, Inodes: 7, TrashRetention: "1h0m0s"}
	for _, tc := range []struct {
		params map[string]string
		want   Mutable
	}{
		{nil, has},
		{
			map[string]string{"writeIOPS": "default", "inodes": "9"},
			Mutable{IO: IOLimits{ReadIOPS: 100}, Inodes: 9, TrashRetention: "1h0m0s"},
		},
		{
			map[string]string{
				"readIOPS": "default", "writeIOPS": "10", "readBytesPerSecond": "65536",
				"writeBytesPerSecond": "65537", "inodes": "default", "trashRetention": "90m",
			},
			Mutable{
				IO:             IOLimits{WriteIOPS: 10, ReadBytesPerSecond: 65536, WriteBytesPerSecond: 65537},
				TrashRetention: "1h30m0s",
			},
		},
		{map[string]string{"trashRetention": "default"}, Mutable{IO: has.IO, Inodes: 7}},
		{map[string]string{"csi.storage.k8s.io/pvc/name": "c"}, has},
	} {
		changes, err := parseMutable(tc.params)
		if got := changes.On(has); got != tc.want || err != nil {
			t.Errorf("%v: %+v, %v; want %+v", tc.params, got, err, tc.want)
		}
		if err := tc.want.Check(); err != nil {
			t.Errorf("%+v in a record: %v", tc.want, err)
		}
	}
}

// What a class may say can be read again from the record.
func TestLargestMutableParametersAreRightInARecord(t *testing.T) {
	for key, value := range map[string]string{
		"readIOPS": "4294967294", "writeIOPS": "4294967294", "inodes": "4294967295",
		"readBytesPerSecond": "1152921504606846976", "writeBytesPerSecond": "1152921504606846976",
		"trashRetention": "8760h",
	} {
		changes, err := parseMutable(map[string]string{key: value})
		if err != nil {
			t.Fatalf("%s=%s: %v", key, value, err)
		}
		m := changes.On(Mutable{})
		if m == (Mutable{}) {
			t.Errorf("%s=%s changes nothing", key, value)
		}
		if err := m.Check(); err != nil {
			t.Errorf("%s=%s in a record: %v", key, value, err)
		}
	}
}

func TestWrongMutableParametersAreNamedWithWhatIsRight(t *testing.T) {
	for key, value := range map[string]string{
		"readIOPS": "9", "writeIOPS": "4294967295", "readBytesPerSecond": "65535",
		"writeBytesPerSecond": "-1", "inodes": "1", "trashRetention": "8761h", "iops": "5",
	} {
		_, err := parseMutable(map[string]string{key: value})
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), strconv.Quote(key)) {
			t.Errorf("%s=%s: %v: want ErrInvalid that names the key", key, value, err)
		}
	}
	_, err := parseMutable(map[string]string{"iops": "5"})
	if err == nil || !strings.Contains(err.Error(), "known: inodes, readBytesPerSecond, readIOPS, "+
		"trashRetention, writeBytesPerSecond, writeIOPS") {
		t.Errorf("%v: want the known keys", err)
	}
}

func TestLimitsThatAVolumeCannotHaveAreRefusedWithTheRemedy(t *testing.T) {
	directory := Spec{Type: DirectoryOrCreate}
	file := Spec{Type: FileOrCreate}
	image := Spec{Type: DirectoryOrCreate, Backing: ImageBacking, FSType: Ext4}
	block := Spec{Type: DirectoryOrCreate, Backing: ImageBacking}
	limited, inodes := Mutable{IO: IOLimits{ReadIOPS: 10}}, Mutable{Inodes: 10}
	for _, tc := range []struct {
		title string
		m     Mutable
		spec  Spec
		want  string // "": it fits
	}{
		{"I/O of a directory", limited, directory, "a directory"},
		{"I/O of a file", limited, file, "backing: image"},
		{"I/O of an image", limited, image, ""},
		{"I/O of a raw block volume", limited, block, ""},
		{"inodes of a directory", inodes, directory, ""},
		{"inodes of a file", inodes, file, "for directories"},
		{"inodes of an image", inodes, image, "for directories"},
		{"retention of anything", Mutable{TrashRetention: "1h0m0s"}, block, ""},
	} {
		err := tc.m.CheckFits(tc.spec)
		if tc.want == "" && err != nil || tc.want != "" &&
			(!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.title, err, tc.want)
		}
	}
}

func TestRetentionOfAVolumeWinsOverThePools(t *testing.T) {
	for _, tc := range []struct {
		retention Retention
		want      time.Duration
	}{{"", time.Hour}, {"0s", 0}, {"2h0m0s", 2 * time.Hour}} {
		if got := tc.retention.Or(time.Hour); got != tc.want {
			t.Errorf("%q: %v, want %v", tc.retention, got, tc.want)
		}
	}
}

func TestClassTakesPrecedenceOverTheLimitOfTheSpecification(t *testing.T) {
	v := Volume{Spec: Spec{Inodes: 5}}
	if got := v.LimitedSpec().Inodes; got != 5 {
		t.Errorf("without a class %d, want 5", got)
	}
	v.Mutable.Inodes = 9
	if got := v.LimitedSpec().Inodes; got != 9 || v.Spec.Inodes != 5 {
		t.Errorf("with a class %d, want 9; the specification has %d, want 5", got, v.Spec.Inodes)
	}
}

func TestVolumeOfAnotherVolumeAttributesClassIsIncompatible(t *testing.T) {
	name, err := ParseName("v")
	if err != nil {
		t.Fatal(err)
	}
	v := Volume{Name: name, CapacityBytes: 1, Mutable: Mutable{IO: IOLimits{ReadIOPS: 10}}}
	err = CreateRequest{Name: name}.CheckAnsweredBy(v)
	if !errors.Is(err, ErrIncompatible) ||
		!strings.Contains(err.Error(), "readIOPS is 10, requested: default") {
		t.Errorf("%v: want ErrIncompatible and the difference", err)
	}
}
