package volume

import (
	"errors"
	"strings"
	"testing"
)

func TestGroupSnapshotIDIsReadBackAndIsNoOther(t *testing.T) {
	for _, s := range []string{
		"group-0123456789ab-groupsnapshot-1",
		"group-000000000000-a",
		"group-ffffffffffff-" + strings.Repeat("x", 64),
		"group-0123456789ab-h-" + strings.Repeat("0", 40),
	} {
		id, err := ParseGroupSnapshotID(s)
		if err != nil || id.String() != s || len(s) > 83 {
			t.Errorf("ParseGroupSnapshotID(%q) = %q, %v", s, id, err)
		}
		_, err = ParseSnapshotID(s)
		if IsID(s) || IsReferenceID(s) || IsInlineHandle(s) || err == nil {
			t.Errorf("%q is the ID of something else too", s)
		}
	}
}

func TestHostileGroupSnapshotIDIsRefused(t *testing.T) {
	for _, s := range []string{
		"group-", "group-0123456789ab", "group-0123456789ab-", "group-0123456789ab-..",
		"group-0123456789ab-a/b", "group-0123456789ab-s-a", "group-0123456789AB-a",
		"0123456789ab-g", "0123456789ab-s-g", "GROUP-0123456789ab-a",
		"group-group-0123456789ab-a", "group-0123456789ab-" + strings.Repeat("x", 1<<20),
	} {
		id, err := ParseGroupSnapshotID(s)
		if !errors.Is(err, ErrNotFound) || id != (GroupSnapshotID{}) || len(err.Error()) > 1000 {
			t.Errorf("ParseGroupSnapshotID(%.40q) = %v, %.200v, want ErrNotFound", s, id, err)
		}
	}
	if _, err := ParseGroupSnapshotID(""); !errors.Is(err, ErrInvalid) {
		t.Errorf("the empty ID: %v, want ErrInvalid", err)
	}
}

func TestGroupIsTheSameInWhateverOrderItsVolumesAreNamed(t *testing.T) {
	name, err := ParseName("a group")
	if err != nil {
		t.Fatal(err)
	}
	v, w := ID{examplePool, "v"}, ID{examplePool, "w"}
	one, err := NewSnapshotGroup(name, []ID{v, w})
	two, err2 := NewSnapshotGroup(name, []ID{w, v})
	if err != nil || err2 != nil || one != two || len(one.Sources()) != 2 {
		t.Errorf("%v, %v differs from %v, %v", one, err, two, err2)
	}
	if dirs := one.MemberDirs(); !isDir(dirs[0]) || dirs[0] == dirs[1] {
		t.Errorf("the directories are %q", dirs)
	}
	for _, ids := range [][]ID{nil, {v, w, v}, make([]ID, MaxGroupVolumes+1)} {
		if _, err := NewSnapshotGroup(name, ids); !errors.Is(err, ErrInvalid) {
			t.Errorf("a group of %d volumes: %v, want ErrInvalid", len(ids), err)
		}
	}
}

func TestGroupParameterThatNobodyKnowsIsNamed(t *testing.T) {
	owner, err := ParseGroupSnapshotParameters(map[string]string{
		ParamGroupSnapshotName: "daily", ParamGroupSnapshotNamespace: "shop",
		ParamGroupSnapshotContent: "groupsnapcontent-1",
		"deletionPolicy":          "Delete", // as Kubernetes' own tests give it
	})
	want := SnapshotOwner{Namespace: "shop", GroupSnapshot: "daily", GroupContent: "groupsnapcontent-1"}
	if owner != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", owner, err, want)
	}
	_, err = ParseGroupSnapshotParameters(map[string]string{"pool": "fast"})
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `"pool"`) {
		t.Errorf("got %v, want ErrInvalid that names the key", err)
	}
}
