package rpc

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/go-logr/logr"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Redacted is a gRPC message that prints without secrets, whatever the verb. It is rendered only
// when it is printed. The message is behind a function, so that a printer that reflects over
// unexported fields cannot reach it.
type Redacted struct {
	render func() string
}

var (
	_ fmt.Formatter  = Redacted{}
	_ fmt.Stringer   = Redacted{}
	_ fmt.GoStringer = Redacted{}
	_ json.Marshaler = Redacted{}
	_ logr.Marshaler = Redacted{}
)

// mask replaces a value that is not shown.
const mask = "***stripped***"

// publicFields are the strings that are shown, with the bytes that are shown of them. All others
// are masked, also fields of a later spec, until they are added here.
var publicFields = map[protoreflect.Name]int{
	"volume_id":          maxStringBytes,
	"name":               maxStringBytes,
	"node_id":            maxNodeIDBytes,
	"starting_token":     maxStringBytes,
	"snapshot_id":        maxStringBytes,
	"snapshot_ids":       maxStringBytes,
	"base_snapshot_id":   maxStringBytes,
	"target_snapshot_id": maxStringBytes,
	"group_snapshot_id":  maxStringBytes,
	"source_volume_id":   maxStringBytes,
	"source_volume_ids":  maxStringBytes,
	"fs_type":            maxStringBytes,
	"volume_mount_group": maxStringBytes,
	"segments":           maxStringBytes,

	"staging_target_path": maxPathBytes,
	"target_path":         maxPathBytes,
	"volume_path":         maxPathBytes,
	"volume_publish_path": maxPathBytes,
}

// publicKeys are the entries of parameters and contexts that are known to have no secrets.
var publicKeys = append(volume.ParameterKeys(), volume.ParamPVCName, volume.ParamPVCNamespace,
	volume.ParamPVName)

// Redact wraps a message for the log. The cost comes when it is printed; until then the message
// must not change. A value that is not a protobuf message prints as its type.
func Redact(msg any) Redacted {
	return Redacted{render: func() string { return render(msg) }}
}

// render masks a copy of the message. Then protosanitizer strips the fields that the spec marks
// with csi_secret.
func render(msg any) string {
	m, ok := msg.(proto.Message)
	if !ok {
		return strconv.Quote(fmt.Sprintf("%T", msg))
	}
	m = proto.Clone(m)
	maskMessage(m.ProtoReflect())
	return protosanitizer.StripSecrets(m).String()
}

// String is the message as JSON in one line.
func (r Redacted) String() string {
	if r.render == nil {
		return "null"
	}
	return r.render()
}

// GoString is String, so that %#v shows no more than %v.
func (r Redacted) GoString() string { return r.String() }

// Format is String for every verb. Without it, %d and %x would walk the struct.
func (r Redacted) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, r.String()) }

// MarshalJSON embeds the message instead of quoting it.
func (r Redacted) MarshalJSON() ([]byte, error) { return []byte(r.String()), nil }

// MarshalLog gives a JSON log the message's fields as fields.
func (r Redacted) MarshalLog() any { return json.RawMessage(r.String()) }

func maskMessage(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			maskMap(field, value.Map())
		case field.IsList():
			maskList(field, value.List())
		case field.Kind() == protoreflect.MessageKind:
			maskMessage(value.Message())
		default:
			m.Set(field, maskScalar(field, value))
		}
		return true
	})
}

func maskList(field protoreflect.FieldDescriptor, list protoreflect.List) {
	for i := range list.Len() {
		if field.Kind() == protoreflect.MessageKind {
			maskMessage(list.Get(i).Message())
			continue
		}
		list.Set(i, maskScalar(field, list.Get(i)))
	}
}

func maskMap(field protoreflect.FieldDescriptor, entries protoreflect.Map) {
	kind := field.MapValue().Kind()
	entries.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		switch {
		case kind == protoreflect.MessageKind:
			maskMessage(value.Message())
		case kind == protoreflect.StringKind && slices.Contains(publicKeys, key.String()):
			entries.Set(key, protoreflect.ValueOfString(clip(value.String(), maxStringBytes)))
		default:
			entries.Set(key, maskKind(kind, field.Name(), value))
		}
		return true
	})
}

func maskScalar(field protoreflect.FieldDescriptor, value protoreflect.Value) protoreflect.Value {
	return maskKind(field.Kind(), field.Name(), value)
}

// maskKind masks texts. Numbers, booleans and enumerations hold no secrets.
func maskKind(
	kind protoreflect.Kind, name protoreflect.Name, value protoreflect.Value,
) protoreflect.Value {
	switch kind {
	case protoreflect.StringKind:
		if limit, public := publicFields[name]; public {
			return protoreflect.ValueOfString(clip(value.String(), limit))
		}
		return protoreflect.ValueOfString(mask)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(mask))
	default:
		return value
	}
}

// clip cuts a long text: requests are logged before their limits are checked.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return volume.Clip(s, limit) + fmt.Sprintf(" (%d bytes)", len(s))
}
