package rpc

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The limits in bytes of CSI spec v1.13.0, "Size Limits", and of the fields whose description
// overrides them. The .proto file has the overrides in comments only, so they are listed here.
const (
	maxStringBytes = 128
	maxMapBytes    = 4 << 10
	// maxFlagsBytes is for all mount_flags together (VolumeCapability.MountVolume).
	maxFlagsBytes = 4 << 10
	// maxNodeIDBytes: NodeGetInfoResponse lets a node's ID be longer, and the same ID comes back in
	// requests.
	maxNodeIDBytes = 256
	// maxPathBytes is PATH_MAX: for paths the spec asks for "the maximum path length allowed by the
	// operating system".
	maxPathBytes = 4096
)

// limitOf is the limit in bytes of a string field or a map field.
func limitOf(field protoreflect.FieldDescriptor) int {
	switch name := string(field.Name()); {
	case field.IsMap():
		return maxMapBytes
	case name == "mount_flags":
		return maxFlagsBytes
	case name == "node_id":
		return maxNodeIDBytes
	case strings.HasSuffix(name, "_path"):
		return maxPathBytes
	}
	return maxStringBytes
}

// enforceLimits refuses requests that the spec forbids, so that handlers only see short texts.
func enforceLimits(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	if err := checkLimits(req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// checkLimits checks every string and every map of a request. Errors: ErrInvalid, naming the field
// and both sizes.
func checkLimits(req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	if e := excessOf(m.ProtoReflect()); e != nil {
		return fmt.Errorf(
			"%w: field %s has %d bytes, at most %d are allowed (CSI spec, \"Size Limits\")",
			volume.ErrInvalid, e.field, e.size, e.limit)
	}
	return nil
}

// excess is a field that is too large; field is its name with those of the messages around it.
type excess struct {
	field       string
	size, limit int
}

// excessOf is the first field of a message that is too large; nil when there is none.
func excessOf(m protoreflect.Message) (found *excess) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Message() != nil && !field.IsMap() {
			if found = excessInside(field, value); found != nil {
				found.field = string(field.Name()) + "." + found.field
			}
			return found == nil
		}
		if size, limit := sizeOf(field, value), limitOf(field); size > limit {
			found = &excess{string(field.Name()), size, limit}
		}
		return found == nil
	})
	return found
}

// excessInside looks into the message, or the list of messages, that a field holds.
func excessInside(field protoreflect.FieldDescriptor, value protoreflect.Value) *excess {
	if !field.IsList() {
		return excessOf(value.Message())
	}
	list := value.List()
	for i := range list.Len() {
		if found := excessOf(list.Get(i).Message()); found != nil {
			return found
		}
	}
	return nil
}

// sizeOf is the number of bytes that count against a field's limit: all keys and values of a map,
// all mount_flags together, and the longest string of another list.
func sizeOf(field protoreflect.FieldDescriptor, value protoreflect.Value) (size int) {
	switch {
	case field.IsMap():
		value.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			size += len(k.String()) + len(v.String())
			return true
		})
	case field.Kind() != protoreflect.StringKind:
	case field.IsList():
		list := value.List()
		for i := range list.Len() {
			n := len(list.Get(i).String())
			if field.Name() == "mount_flags" {
				size += n
			} else {
				size = max(size, n)
			}
		}
	default:
		size = len(value.String())
	}
	return size
}
