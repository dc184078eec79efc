package capability

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	writer = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	multi  = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
)

func mounted(
	mode csi.VolumeCapability_AccessMode_Mode, m *csi.VolumeCapability_MountVolume,
) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: m},
	}
}

func TestEveryAccessModeMeansSomething(t *testing.T) {
	type meaning struct{ exclusive, multiNode, readOnly bool }
	want := map[csi.VolumeCapability_AccessMode_Mode]meaning{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        {},
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  {},
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: {exclusive: true},
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   {readOnly: true},
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    {readOnly: true, multiNode: true},
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:  {multiNode: true},
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   {multiNode: true},
	}
	for number, name := range csi.VolumeCapability_AccessMode_Mode_name {
		mode := csi.VolumeCapability_AccessMode_Mode(number)
		a, err := Parse(mounted(mode, &csi.VolumeCapability_MountVolume{}))
		meant, known := want[mode]
		if !known {
			if mode != csi.VolumeCapability_AccessMode_UNKNOWN || !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%s: %+v, %v, want ErrInvalid for UNKNOWN only", name, a, err)
			}
			continue
		}
		if got := (meaning{a.Exclusive, a.MultiNode, a.Mount.ReadOnly()}); got != meant || err != nil {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, meant)
		}
	}
}

func TestCapabilityThatIsNotOfferedIsRefused(t *testing.T) {
	for _, tc := range []struct {
		title string
		c     *csi.VolumeCapability
		says  string
	}{
		{"none", nil, "missing"},
		{"empty", &csi.VolumeCapability{}, "UNKNOWN"},
		{"no access mode", &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}, "UNKNOWN"},
		{"mode of the future", mounted(99, &csi.VolumeCapability_MountVolume{}), "99"},
		{"negative mode", mounted(-1, &csi.VolumeCapability_MountVolume{}), "-1"},
		{"no access type", &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: writer}}, "access type"},
		{"mount without content", mounted(writer, nil), "access type"},
		{"filesystem", mounted(writer, &csi.VolumeCapability_MountVolume{FsType: "ntfs"}), "ext4"},
		{"mount group by name", mounted(writer, &csi.VolumeCapability_MountVolume{VolumeMountGroup: "staff"}), "volume_mount_group"},
		{"negative mount group", mounted(writer, &csi.VolumeCapability_MountVolume{VolumeMountGroup: "-1"}), "volume_mount_group"},
		{"mount group that chown takes for none", mounted(writer, &csi.VolumeCapability_MountVolume{VolumeMountGroup: "4294967295"}), "volume_mount_group"},
		{"flag", mounted(writer, &csi.VolumeCapability_MountVolume{MountFlags: []string{"noexec", "suid"}}), `"suid"`},
		{"empty flag", mounted(writer, &csi.VolumeCapability_MountVolume{MountFlags: []string{""}}), `""`},
	} {
		t.Run(tc.title, func(t *testing.T) {
			if a, err := Parse(tc.c); !errors.Is(err, volume.ErrInvalid) ||
				!strings.Contains(err.Error(), tc.says) {
				t.Errorf("%+v, %v, want ErrInvalid that says %q", a, err, tc.says)
			}
		})
	}
}

func TestMountFlagsReachTheMount(t *testing.T) {
	a, err := Parse(
		mounted(multi, &csi.VolumeCapability_MountVolume{MountFlags: []string{"noexec", "ro"}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	flags := strings.Split(a.Mount.String(), ",")
	for _, flag := range []string{"noexec", "ro", "nosuid", "nodev"} {
		if !slices.Contains(flags, flag) {
			t.Errorf("the mount is to have %v, without %s", flags, flag)
		}
	}
}

func block() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: writer},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

func TestAccessTypeIsWhatIsToBeSeen(t *testing.T) {
	for _, tc := range []struct {
		title string
		c     *csi.VolumeCapability
		want  volume.AccessType
	}{
		{"directory", mounted(writer, &csi.VolumeCapability_MountVolume{}), volume.AccessType{}},
		{"filesystem", mounted(writer, &csi.VolumeCapability_MountVolume{FsType: "xfs"}), volume.AccessType{FSType: volume.XFS}},
		{"block", block(), volume.AccessType{Block: true}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			if a, err := Parse(tc.c); a.Type != tc.want || err != nil {
				t.Errorf("%+v, %v, want %+v", a.Type, err, tc.want)
			}
		})
	}
}

func TestCapabilitiesOfOneVolumeWantOneThing(t *testing.T) {
	either, raw := Access{}, Access{Type: volume.AccessType{Block: true}}
	xfs, ext4 := Access{
		Type: volume.AccessType{FSType: volume.XFS},
	}, Access{
		Type: volume.AccessType{FSType: volume.Ext4},
	}
	for _, tc := range []struct {
		all  []Access
		want volume.AccessType
		ok   bool
	}{
		{nil, volume.AccessType{}, true},
		{[]Access{either, either}, volume.AccessType{}, true},
		{[]Access{either, xfs}, xfs.Type, true},
		{[]Access{xfs, either}, xfs.Type, true},
		{[]Access{raw, raw}, raw.Type, true},
		{[]Access{xfs, ext4}, volume.AccessType{}, false},
		{[]Access{raw, either}, volume.AccessType{}, false},
		{[]Access{xfs, raw}, volume.AccessType{}, false},
	} {
		got, err := Type(tc.all)
		if tc.ok != (err == nil) || tc.ok && got != tc.want ||
			!tc.ok && !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%+v: %+v, %v", tc.all, got, err)
		}
	}
}

func TestAllCapabilitiesHaveToBeGood(t *testing.T) {
	good := mounted(multi, &csi.VolumeCapability_MountVolume{})
	if _, err := ParseAll(nil); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("none: %v, want ErrInvalid", err)
	}
	if all, err := ParseAll([]*csi.VolumeCapability{good, good}); len(all) != 2 || err != nil {
		t.Errorf("two good ones: %v, %v", all, err)
	}
	_, err := ParseAll([]*csi.VolumeCapability{good, nil})
	if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "capability 1") {
		t.Errorf("a bad one: %v, want ErrInvalid naming it", err)
	}
}

// pool implements the policy of a pool.
type pool bool

func (p pool) AllowMultiNode() bool { return bool(p) }

func TestSeveralNodesNeedThePoolsConsent(t *testing.T) {
	one, several := Access{}, Access{MultiNode: true}
	for _, tc := range []struct {
		pool pool
		all  []Access
		want error
	}{
		{false, nil, nil},
		{false, []Access{one}, nil},
		{false, []Access{one, several}, volume.ErrInvalid},
		{true, []Access{several, one}, nil},
	} {
		if err := CheckNodes(tc.pool, tc.all...); !errors.Is(err, tc.want) {
			t.Errorf("pool allows %v, %+v: %v, want %v", tc.pool, tc.all, err, tc.want)
		}
	}
}
