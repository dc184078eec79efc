package rpc

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The limits in bytes of CSI spec v1.13.0, "Size Limits", and of the fields whose description
// overrides them.
const (
	maxStringBytes = 128
	maxMapBytes    = 4 << 10
	// maxFlagsBytes is for all mount_flags together (VolumeCapability.MountVolume).
	maxFlagsBytes = 4 << 10
	// maxNodeIDBytes: NodeGetInfoResponse lets a node's ID be longer, and the same ID comes back in
	// requests.
	maxNodeIDBytes = 256
	// maxPathBytes: for paths the spec asks for "the maximum path length allowed by the operating
	// system", PATH_MAX.
	maxPathBytes = 4096
)

// enforceLimits refuses what the spec says a caller never sends, so that no handler has to think of
// megabytes.
func enforceLimits(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	if err := checkLimits(req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// checkLimits asks a request for the fields it has instead of reflecting over it: this runs on
// every call. A test walks every CSI request by reflection and finds a field that is missing here.
// Errors: ErrInvalid, naming the field and both sizes.
func checkLimits(req any) error {
	var l limits
	l.checkIDs(req)
	l.checkPaths(req)
	l.checkMaps(req)
	l.checkMessages(req)
	l.checkGroups(req)
	return l.err
}

// limits keeps the first fault.
type limits struct{ err error }

func (l *limits) atMost(limit, size int, field string) {
	if size > limit && l.err == nil {
		l.err = fmt.Errorf(
			"%w: field %s has %d bytes, at most %d are allowed (CSI spec, \"Size Limits\")",
			volume.ErrInvalid,
			field,
			size,
			limit,
		)
	}
}

func (l *limits) text(field, value string) { l.atMost(maxStringBytes, len(value), field) }

func (l *limits) path(field, value string) { l.atMost(maxPathBytes, len(value), field) }

func (l *limits) table(field string, values map[string]string) {
	size := 0
	for k, v := range values {
		size += len(k) + len(v)
	}
	l.atMost(maxMapBytes, size, field)
}

func (l *limits) checkIDs(req any) {
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		l.text("volume_id", r.GetVolumeId())
	}
	if r, ok := req.(interface{ GetName() string }); ok {
		l.text("name", r.GetName())
	}
	if r, ok := req.(interface{ GetNodeId() string }); ok {
		l.atMost(maxNodeIDBytes, len(r.GetNodeId()), "node_id")
	}
	if r, ok := req.(interface{ GetStartingToken() string }); ok {
		l.text("starting_token", r.GetStartingToken())
	}
	if r, ok := req.(interface{ GetSnapshotId() string }); ok {
		l.text("snapshot_id", r.GetSnapshotId())
	}
	if r, ok := req.(interface{ GetSourceVolumeId() string }); ok {
		l.text("source_volume_id", r.GetSourceVolumeId())
	}
}

func (l *limits) checkPaths(req any) {
	if r, ok := req.(interface{ GetStagingTargetPath() string }); ok {
		l.path("staging_target_path", r.GetStagingTargetPath())
	}
	if r, ok := req.(interface{ GetTargetPath() string }); ok {
		l.path("target_path", r.GetTargetPath())
	}
	if r, ok := req.(interface{ GetVolumePath() string }); ok {
		l.path("volume_path", r.GetVolumePath())
	}
	if r, ok := req.(interface{ GetVolumePublishPath() string }); ok {
		l.path("volume_publish_path", r.GetVolumePublishPath())
	}
}

func (l *limits) checkMaps(req any) {
	if r, ok := req.(interface{ GetSecrets() map[string]string }); ok {
		l.table("secrets", r.GetSecrets())
	}
	if r, ok := req.(interface{ GetVolumeContext() map[string]string }); ok {
		l.table("volume_context", r.GetVolumeContext())
	}
	if r, ok := req.(interface{ GetPublishContext() map[string]string }); ok {
		l.table("publish_context", r.GetPublishContext())
	}
	if r, ok := req.(interface{ GetParameters() map[string]string }); ok {
		l.table("parameters", r.GetParameters())
	}
	if r, ok := req.(interface{ GetMutableParameters() map[string]string }); ok {
		l.table("mutable_parameters", r.GetMutableParameters())
	}
}

func (l *limits) checkMessages(req any) {
	if r, ok := req.(interface{ GetVolumeCapability() *csi.VolumeCapability }); ok {
		l.capability("volume_capability", r.GetVolumeCapability())
	}
	if r, ok := req.(interface {
		GetVolumeCapabilities() []*csi.VolumeCapability
	}); ok {
		for _, c := range r.GetVolumeCapabilities() {
			l.capability("volume_capabilities", c)
		}
	}
	if r, ok := req.(interface {
		GetVolumeContentSource() *csi.VolumeContentSource
	}); ok {
		l.text("volume_content_source.snapshot.snapshot_id",
			r.GetVolumeContentSource().GetSnapshot().GetSnapshotId())
		l.text("volume_content_source.volume.volume_id",
			r.GetVolumeContentSource().GetVolume().GetVolumeId())
	}
	if r, ok := req.(interface {
		GetAccessibilityRequirements() *csi.TopologyRequirement
	}); ok {
		l.topologies("accessibility_requirements.requisite.segments",
			r.GetAccessibilityRequirements().GetRequisite())
		l.topologies("accessibility_requirements.preferred.segments",
			r.GetAccessibilityRequirements().GetPreferred())
	}
	if r, ok := req.(interface{ GetAccessibleTopology() *csi.Topology }); ok {
		l.table("accessible_topology.segments", r.GetAccessibleTopology().GetSegments())
	}
}

func (l *limits) capability(field string, c *csi.VolumeCapability) {
	m := c.GetMount()
	if m == nil {
		return
	}
	size := 0
	for _, flag := range m.GetMountFlags() {
		size += len(flag)
	}
	// The name is put together for a fault only: this is the hot path.
	if len(m.GetFsType()) > maxStringBytes || len(m.GetVolumeMountGroup()) > maxStringBytes ||
		size > maxFlagsBytes {
		l.text(field+".mount.fs_type", m.GetFsType())
		l.text(field+".mount.volume_mount_group", m.GetVolumeMountGroup())
		l.atMost(maxFlagsBytes, size, field+".mount.mount_flags")
	}
}

func (l *limits) topologies(field string, list []*csi.Topology) {
	for _, t := range list {
		l.table(field, t.GetSegments())
	}
}

func (l *limits) checkGroups(req any) {
	if r, ok := req.(interface{ GetGroupSnapshotId() string }); ok {
		l.text("group_snapshot_id", r.GetGroupSnapshotId())
	}
	if r, ok := req.(interface{ GetSourceVolumeIds() []string }); ok {
		for _, id := range r.GetSourceVolumeIds() {
			l.text("source_volume_ids", id)
		}
	}
	if r, ok := req.(interface{ GetSnapshotIds() []string }); ok {
		for _, id := range r.GetSnapshotIds() {
			l.text("snapshot_ids", id)
		}
	}
}
