package rpc

import (
	"errors"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// requests yields a new message of every unary CSI request type.
func requests(t testing.TB) iter.Seq[proto.Message] {
	t.Helper()
	return func(yield func(proto.Message) bool) {
		services := csi.File_csi_proto.Services()
		for i := range services.Len() {
			methods := services.Get(i).Methods()
			for j := range methods.Len() {
				if methods.Get(j).IsStreamingServer() {
					continue
				}
				typ, err := protoregistry.GlobalTypes.FindMessageByName(methods.Get(j).Input().FullName())
				if err != nil {
					t.Fatal(err)
				}
				if !yield(typ.New().Interface()) {
					return
				}
			}
		}
	}
}

// overrides returns the limits that csi.proto sets in the comments before fields, by message and
// field.
func overrides(t *testing.T) map[string]int {
	t.Helper()
	const module = "github.com/container-storage-interface/spec"
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "csi.proto"))
	if err != nil {
		t.Fatal(err)
	}
	var message, comment string
	limits := map[string]int{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch words := strings.Fields(line); {
		case strings.HasPrefix(line, "//"):
			comment += strings.TrimPrefix(line, "//")
			continue
		case strings.HasPrefix(line, "message "):
			message = words[1]
		case len(words) > 3 && words[len(words)-2] == "=": // repeated string mount_flags = 2;
			if limit := overrideIn(comment); limit > 0 {
				limits[message+"."+words[len(words)-3]] = limit
			}
		}
		comment = ""
	}
	return limits
}

// overrideIn returns the limit in bytes that a comment of csi.proto sets, or 0 if it sets none.
func overrideIn(comment string) int {
	switch {
	case strings.Contains(comment, "SHALL NOT exceed 4 KiB"):
		return 4096
	case !strings.Contains(comment, "overrides the general CSI size limit"):
		return 0
	case strings.Contains(comment, "SHALL NOT exceed 256 bytes"):
		return 256
	default: // "SHOULD support the maximum path length allowed by the operating system"
		return 4096
	}
}

func TestLimitsAreThoseOfTheSpecification(t *testing.T) {
	limits := overrides(t)
	if limits["NodeGetInfoResponse.node_id"] != 256 || limits["MountVolume.mount_flags"] != 4096 ||
		limits["NodePublishVolumeRequest.target_path"] != 4096 {
		t.Fatalf("csi.proto is read as %v", limits)
	}
	for m := range requests(t) {
		for _, chain := range textChains(m.ProtoReflect().Descriptor(), nil) {
			field := chain[len(chain)-1]
			want := 128
			if field.IsMap() {
				want = 4096
			}
			if limit, ok := limits[string(field.Parent().Name())+"."+string(field.Name())]; ok {
				want = limit
			}
			if field.Name() == "node_id" { // the node's ID comes from NodeGetInfo
				want = limits["NodeGetInfoResponse.node_id"]
			}
			if got := limitOf(field); got != want {
				t.Errorf("%s: %d bytes, want %d", field.FullName(), got, want)
			}
		}
	}
}

// place sets the field at the end of the chain to a text of that size.
func place(root protoreflect.Message, chain []protoreflect.FieldDescriptor, size int) {
	if chain[len(chain)-1].IsMap() {
		half := size / 2
		placeText(root, chain, strings.Repeat("k", half), strings.Repeat("v", size-half))
		return
	}
	placeText(root, chain, "", strings.Repeat("x", size))
}

// placeText sets the field at the end of the chain to a text, and makes the messages on the way. In
// a map the text gets that key.
func placeText(
	root protoreflect.Message, chain []protoreflect.FieldDescriptor, key, value string,
) {
	for _, field := range chain[:len(chain)-1] {
		if field.IsList() {
			root = root.Mutable(field).List().AppendMutable().Message()
			continue
		}
		root = root.Mutable(field).Message()
	}
	last, text := chain[len(chain)-1], protoreflect.ValueOfString
	switch {
	case last.IsMap():
		root.Mutable(last).Map().Set(text(key).MapKey(), text(value))
	case last.IsList():
		root.Mutable(last).List().Append(text(value))
	default:
		root.Set(last, text(value))
	}
}

// textChains returns the chains of fields that lead to the strings and maps of a message.
func textChains(
	desc protoreflect.MessageDescriptor, prefix []protoreflect.FieldDescriptor,
) [][]protoreflect.FieldDescriptor {
	var chains [][]protoreflect.FieldDescriptor
	for i := range desc.Fields().Len() {
		field := desc.Fields().Get(i)
		chain := slices.Concat(prefix, []protoreflect.FieldDescriptor{field})
		switch {
		case field.IsMap(), field.Kind() == protoreflect.StringKind:
			chains = append(chains, chain)
		case field.Kind() == protoreflect.MessageKind:
			chains = append(chains, textChains(field.Message(), chain)...)
		}
	}
	return chains
}

func chainName(chain []protoreflect.FieldDescriptor) string {
	names := make([]string, len(chain))
	for i, field := range chain {
		names[i] = string(field.Name())
	}
	return strings.Join(names, ".")
}

func TestEveryFieldOfEveryRequestHasItsLimit(t *testing.T) {
	fields := 0
	for m := range requests(t) {
		desc := m.ProtoReflect().Descriptor()
		for _, chain := range textChains(desc, nil) {
			fields++
			name, limit := chainName(chain), limitOf(chain[len(chain)-1])
			fits := m.ProtoReflect().New()
			place(fits, chain, limit)
			if err := checkLimits(fits.Interface()); err != nil {
				t.Errorf("%s.%s of %d bytes: %v", desc.Name(), name, limit, err)
			}
			over := m.ProtoReflect().New()
			place(over, chain, limit+1)
			err := checkLimits(over.Interface())
			if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), " "+name+" has ") {
				t.Errorf("%s.%s of %d bytes: got %v, want ErrInvalid naming the field", desc.Name(), name,
					limit+1, err)
			}
		}
	}
	if fields < 80 {
		t.Errorf("only %d fields were found", fields)
	}
}

func TestLimitMessageNamesFieldSizeAndLimit(t *testing.T) {
	err := checkLimits(
		&csi.CreateVolumeRequest{
			Name:       "v",
			Parameters: map[string]string{"a": strings.Repeat("x", 5000)},
		},
	)
	want := `invalid argument: field parameters has 5001 bytes, at most 4096 are allowed (CSI spec, "Size Limits")`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestMountFlagsCountTogether(t *testing.T) {
	flags := []string{strings.Repeat("a", 2048), strings.Repeat("b", 2048), "c"}
	mount := &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{MountFlags: flags}}
	err := checkLimits(
		&csi.NodePublishVolumeRequest{VolumeCapability: &csi.VolumeCapability{AccessType: mount}},
	)
	if err == nil ||
		!strings.Contains(err.Error(), "volume_capability.mount.mount_flags has 4097 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestLimitsTakeWhatIsNoRequest(t *testing.T) {
	if err := checkLimits(nil); err != nil {
		t.Error(err)
	}
	if err := checkLimits((*csi.NodePublishVolumeRequest)(nil)); err != nil {
		t.Error(err)
	}
}

func TestEachStringOfAListHasItsOwnLimit(t *testing.T) {
	list := slices.Repeat([]string{strings.Repeat("x", 128)}, 100)
	if err := checkLimits(&csi.CreateVolumeGroupSnapshotRequest{SourceVolumeIds: list}); err != nil {
		t.Error(err)
	}
}

func FuzzLimits(f *testing.F) {
	for m := range requests(f) {
		for _, chain := range textChains(m.ProtoReflect().Descriptor(), nil) {
			seed := m.ProtoReflect().New()
			place(seed, chain, 129)
			f.Add(marshal(f, seed.Interface()))
		}
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		for m := range requests(t) {
			if proto.Unmarshal(wire, m) != nil {
				continue
			}
			if err := checkLimits(m); err != nil && !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%T: %v", m, err)
			}
		}
	})
}
