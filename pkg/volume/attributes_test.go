package volume

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func parseSize(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

func TestAttributesBecomeWhatAPodWants(t *testing.T) {
	kubelet := map[string]string{
		AttrPodName:      "p",
		AttrPodNamespace: "ns",
		AttrPodUID:       "uid",
		AttrEphemeral:    "true",
	}
	for _, tc := range []struct {
		title string
		given map[string]string
		want  Attributes
	}{
		{"nothing", nil, Attributes{SizeBytes: DefaultCapacityBytes, Parameters: Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o777}}}},
		{"a file", map[string]string{"type": "FileOrCreate", "size": "5"}, Attributes{SizeBytes: 5, Parameters: Parameters{Spec: Spec{Type: FileOrCreate, Mode: 0o644}}}},
		{"inodes", map[string]string{"inodes": "5"}, Attributes{SizeBytes: DefaultCapacityBytes, Parameters: Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o777, Inodes: 5}}}},
		{"memory", map[string]string{"medium": "Memory", "size": "5", "uid": "7"}, Attributes{Memory: true, SizeBytes: 5, Parameters: Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o777, UID: 7}}}},
		{"a path", map[string]string{"path": "/a/b", "type": "Socket"}, Attributes{SizeBytes: DefaultCapacityBytes, Parameters: Parameters{Path: "/a/b", Spec: Spec{Type: Socket}}}},
		{"a path that is made", map[string]string{"path": "/a", "type": "DirectoryOrCreate"}, Attributes{SizeBytes: DefaultCapacityBytes, Parameters: Parameters{Path: "/a", Spec: Spec{Type: DirectoryOrCreate, Mode: 0o755}}}},
		{"what Kubernetes may add", map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": "x"}, Attributes{SizeBytes: DefaultCapacityBytes, Parameters: Parameters{Spec: Spec{Type: DirectoryOrCreate, Mode: 0o777}}}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			all := map[string]string{}
			maps.Copy(all, tc.given)
			maps.Copy(all, kubelet)
			tc.want.Inline, tc.want.Pod = true, Pod{Name: "p", Namespace: "ns", UID: "uid"}
			tc.want.Owner = Owner{Namespace: "ns", Pod: "p", PodUID: "uid"}
			if got, err := ParseAttributes(all, parseSize); err != nil || got != tc.want {
				t.Errorf("%+v, %v\nwant %+v", got, err, tc.want)
			}
		})
	}
}

func TestInlineAttributesAreForInlineVolumes(t *testing.T) {
	for _, key := range []string{ParamSize, ParamMedium} {
		if _, err := ParseAttributes(map[string]string{key: "1"},
			parseSize); !errors.Is(err, ErrInvalid) ||
			!strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v, want ErrInvalid", key, err)
		}
	}
}

func TestReferenceIDsAreNoPoolsIDs(t *testing.T) {
	for _, s := range []string{"pvc-1", "h", "0123456789ab-x", strings.Repeat("é", 60), "../x"} {
		name, err := ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		params := Parameters{Path: "/srv/x", Spec: Spec{Type: Directory}}
		id := params.ReferenceID(name)
		if IsID(id) || !IsReferenceID(id) || IsInlineHandle(id) ||
			IsReferenceID("0123456789ab-"+name.Dir()) ||
			len(id) > MaxNameBytes {
			t.Errorf("%q has the ID %q", s, id)
		}
	}
	for _, s := range []string{
		"", "host-", "host-../x", "host", "hosts-x", "host-x", "host-0123456789ab", "host-0123456789ab-", "host-0123456789AB-x",
		"host-0123456789ab-s-x", "host-0123456789ab-../x",
	} {
		if IsReferenceID(s) {
			t.Errorf("%q is taken", s)
		}
	}
}

func TestReferenceIDSaysWhatItRefersTo(t *testing.T) {
	name, err := ParseName("pvc-1")
	if err != nil {
		t.Fatal(err)
	}
	made := Parameters{
		Path:  "/srv/x",
		Spec:  Spec{Type: FileOrCreate, Mode: 0o644},
		Owner: Owner{Namespace: "a"},
	}
	same := made
	same.Owner = Owner{} // the attributes of a PersistentVolume do not have the owner
	if err := same.CheckReference(made.ReferenceID(name)); err != nil {
		t.Error(err)
	}
	if err := same.CheckReference("a handle that somebody wrote"); err != nil {
		t.Error(err)
	}
	for _, other := range []Parameters{
		{},
		{Path: "/srv", Spec: made.Spec},
		{Path: "/srv/x", Spec: Spec{Type: File, Mode: 0o644}},
		{Path: "/srv/x", Spec: Spec{Type: FileOrCreate, Mode: 0o666}},
		{Path: "/srv/x", Spec: Spec{Type: FileOrCreate, Mode: 0o644, UID: 1}},
		{Path: "/srv/x", Spec: Spec{Type: FileOrCreate, Mode: 0o644, GID: 1}},
	} {
		if err := other.CheckReference(made.ReferenceID(name)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", other, err)
		}
	}
}

func TestMemoryIsToldTheOneRuleThatItBreaks(t *testing.T) {
	for want, more := range map[string]map[string]string{
		`that needs "size"`:      {},
		`is in no pool`:          {"size": "5", "pool": "p"},
		`"type" is FileOrCreate`: {"size": "5", "type": "FileOrCreate"},
		`has no "inodes"`:        {"size": "5", "inodes": "7"},
	} {
		given := map[string]string{AttrEphemeral: "true", "medium": "Memory"}
		maps.Copy(given, more)
		if _, err := ParseAttributes(given, parseSize); !errors.Is(err, ErrInvalid) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want ErrInvalid that says %s", more, err, want)
		}
	}
}

func FuzzParseAttributes(f *testing.F) {
	for _, s := range [][3]string{
		{"path", "/srv/../etc", "Directory"},
		{"path", "/srv/\x00", "File"},
		{"size", "1e999999999", "DirectoryOrCreate"},
		{"medium", "Memory", "DirectoryOrCreate"},
		{"mode", "7777", "FileOrCreate"},
		{AttrPodUID, "../../etc", "Socket"},
		{"uid", "-1", ""},
	} {
		f.Add(s[0], s[1], s[2], true)
		f.Add(s[0], s[1], s[2], false)
	}
	f.Fuzz(func(t *testing.T, key, value, kind string, inline bool) {
		given := map[string]string{key: value, ParamType: kind, AttrEphemeral: strconv.FormatBool(inline)}
		a, err := ParseAttributes(given, parseSize)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || a != (Attributes{}) {
				t.Errorf("%q=%q: %+v, %v", key, value, a, err)
			}
			return
		}
		if !slices.Contains(Types(), a.Spec.Type) || a.SizeBytes <= 0 || a.Spec.Mode&^0o3777 != 0 ||
			a.Memory && a.Path != "" {
			t.Errorf("%q=%q: %+v", key, value, a)
		}
		for part := range strings.SplitSeq(strings.TrimPrefix(a.Path, "/"), "/") {
			if a.Path != "" && (part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0)) {
				t.Errorf("path %q", a.Path)
			}
		}
	})
}
