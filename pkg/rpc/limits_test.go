package rpc

import (
	"errors"
	"iter"
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

// limitOf is the spec read a second time, by field name: what a field may hold.
func limitOf(field protoreflect.FieldDescriptor) int {
	switch name := string(field.Name()); {
	case field.IsMap(), name == "mount_flags":
		return 4096
	case strings.HasSuffix(name, "_path"):
		return 4096
	case name == "node_id":
		return 256
	default:
		return 128
	}
}

// place puts a string of that size into the field at the end of the chain, making messages on the
// way.
func place(root protoreflect.Message, chain []protoreflect.FieldDescriptor, size int) {
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
		half := size / 2
		root.Mutable(
			last,
		).Map().Set(text(strings.Repeat("k", half)).MapKey(), text(strings.Repeat("v", size-half)))
	case last.IsList():
		root.Mutable(last).List().Append(text(strings.Repeat("x", size)))
	default:
		root.Set(last, text(strings.Repeat("x", size)))
	}
}

// textChains finds every string and map in a message and below it.
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

// exceeds is checkLimits by reflection, slow and without a list of fields.
func exceeds(m protoreflect.Message) bool {
	over := false
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		over = over || fieldExceeds(field, value)
		return true
	})
	return over
}

func fieldExceeds(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
	limit := limitOf(field)
	switch {
	case field.IsMap():
		size := 0
		value.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			size += len(k.String()) + len(v.String())
			return true
		})
		return size > limit
	case field.IsList():
		return listExceeds(field, value.List(), limit)
	case field.Kind() == protoreflect.MessageKind:
		return exceeds(value.Message())
	case field.Kind() == protoreflect.StringKind:
		return len(value.String()) > limit
	}
	return false
}

func listExceeds(field protoreflect.FieldDescriptor, list protoreflect.List, limit int) bool {
	total := 0
	for i := range list.Len() {
		if field.Kind() == protoreflect.MessageKind {
			if exceeds(list.Get(i).Message()) {
				return true
			}
			continue
		}
		size := len(list.Get(i).String())
		total += size
		if field.Name() != "mount_flags" && size > limit {
			return true
		}
	}
	return field.Name() == "mount_flags" && total > limit
}

// FuzzLimits compares the fast check with the reflecting one on arbitrary requests.
func FuzzLimits(f *testing.F) {
	for m := range requests(f) {
		for _, chain := range textChains(m.ProtoReflect().Descriptor(), nil) {
			seed := m.ProtoReflect().New()
			place(seed, chain, 129)
			wire, err := proto.Marshal(seed.Interface())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(wire)
		}
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		for m := range requests(t) {
			if proto.Unmarshal(wire, m) != nil {
				continue
			}
			if got, want := checkLimits(m) != nil, exceeds(m.ProtoReflect()); got != want {
				t.Errorf("%T: refused %v, reflection says %v", m, got, want)
			}
		}
	})
}
