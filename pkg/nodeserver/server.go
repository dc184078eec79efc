// Package nodeserver is the CSI Node service: it makes volumes of the node's pools visible in pods, by bind mounts.
package nodeserver

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Pools finds the pool that holds a volume. Errors: ErrNotFound when no pool of this node has that ID, ErrUnavailable when one
// that may have it is not open.
type Pools interface {
	ByID(id volume.PoolID) (*pool.Pool, error)
}

// Options are what a Server works with.
type Options struct {
	NodeName   string
	KubeletDir string
	// MaxVolumes is how many volumes the scheduler may put on the node; 0 is no limit.
	MaxVolumes   int64
	Topology     map[string]string
	Pools        Pools
	Publications *Publications
	Binder       mount.Binder
}

// Server implements csi.NodeServer. What it does not implement answers UNIMPLEMENTED and is not advertised.
type Server struct {
	csi.UnimplementedNodeServer
	Options
}

var _ csi.NodeServer = (*Server)(nil)

// New makes a Server.
func New(options Options) *Server { return &Server{Options: options} }

// NodeGetInfo tells the scheduler where this node's volumes are usable: on this node.
func (s *Server) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId:             s.NodeName,
		MaxVolumesPerNode:  s.MaxVolumes,
		AccessibleTopology: &csi.Topology{Segments: s.Topology},
	}, nil
}

// NodeGetCapabilities advertises what is built, nothing more.
func (*Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	types := []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	}
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range types {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// volumeRequest is what every call about one volume at one path has.
type volumeRequest interface {
	GetVolumeId() string
	GetVolumeCapability() *csi.VolumeCapability
}

// open parses and opens what a request names. The caller closes the file.
func (s *Server) open(req volumeRequest) (*os.File, volume.ID, capability.Access, error) {
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		return nil, id, capability.Access{}, err
	}
	access, err := capability.Parse(req.GetVolumeCapability())
	if err != nil {
		return nil, id, access, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return nil, id, access, fmt.Errorf("volume %s: %w", id, err)
	}
	if err := capability.CheckNodes(p, access); err != nil {
		return nil, id, access, err
	}
	data, err := p.Data(id)
	return data, id, access, err
}

// NodeStageVolume makes sure that the volume can be published. A directory or a file needs nothing mounted in between, so the
// staging path stays as it is.
func (s *Server) NodeStageVolume(_ context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if _, err := s.parseTarget("staging_target_path", req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	data, _, _, err := s.open(req)
	if err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, data.Close()
}

// NodeUnstageVolume has nothing to undo.
func (s *Server) NodeUnstageVolume(_ context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if _, err := volume.ParseID(req.GetVolumeId()); err != nil {
		return nil, err
	}
	if _, err := s.parseTarget("staging_target_path", req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// NodePublishVolume makes the volume visible at the target path.
func (s *Server) NodePublishVolume(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	target, err := s.parseTarget("target_path", req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	data, id, access, err := s.open(req)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	if req.GetReadonly() {
		access.Mount = access.Mount.AsReadOnly()
	}
	isNew, err := s.admit(target, publication{id: id, exclusive: access.Exclusive}, data)
	if err != nil {
		return nil, err
	}
	if err := s.Binder.Bind(data, target, access.Mount); err != nil {
		if isNew {
			s.Publications.forget(target)
		}
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// admit enters a publication that is about to be made. Before it refuses one it looks at the mounts: somebody may have unmounted
// by hand. The caller has the volume and the target for itself (pkg/rpc), and only of these a memory may be dropped: another
// volume could be about to appear at another target. Errors: ErrInUse.
func (s *Server) admit(t mount.Target, pub publication, data *os.File) (isNew bool, err error) {
	isNew, err = s.Publications.admit(t, pub)
	if !errors.Is(err, volume.ErrInUse) {
		return isNew, err
	}
	if _, err := s.Publications.verify(pub.id, data); err != nil {
		return false, err
	}
	mounted, err := mount.Mounted(t)
	if err != nil {
		return false, err
	}
	if !mounted {
		s.Publications.forget(t)
	}
	return s.Publications.admit(t, pub)
}

// NodeUnpublishVolume takes the volume off the target path. It needs no pool: a volume whose disk has died can be unpublished.
func (s *Server) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	target, err := s.parseTarget("target_path", req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	if there, ok := s.Publications.at(target); ok && there != id {
		return nil, fmt.Errorf("%w: volume %s is published at %s, not %s", volume.ErrInUse, there, target, id)
	}
	if err := mount.Unbind(target); err != nil {
		return nil, fmt.Errorf("unpublish volume %s: %w", id, err)
	}
	s.Publications.forget(target)
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats costs a few system calls, whatever the volume holds.
func (s *Server) NodeGetVolumeStats(_ context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	target, err := s.parseTarget("volume_path", req.GetVolumePath())
	if err != nil && req.GetVolumePath() != "" {
		// Where no target can be, the volume "does not exist on specified volume_path" either (CSI spec, NodeGetVolumeStats
		// Errors); csi-test asks with a relative path.
		return nil, fmt.Errorf("%w: volume %s is not published at %q", volume.ErrNotFound, id, req.GetVolumePath())
	}
	if err != nil {
		return nil, err
	}
	if there, ok := s.Publications.at(target); !ok || there != id {
		return nil, fmt.Errorf("%w: volume %s is not published at %s", volume.ErrNotFound, id, target)
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	usage, err := p.Usage(id)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: usage.TotalBytes, Used: usage.UsedBytes, Available: usage.AvailableBytes},
		{Unit: csi.VolumeUsage_INODES, Total: usage.TotalInodes, Used: usage.UsedInodes, Available: usage.AvailableInodes},
	}}, nil
}

func (s *Server) parseTarget(field, path string) (mount.Target, error) {
	t, err := mount.ParseTarget(s.KubeletDir, path)
	if err != nil {
		return mount.Target{}, fmt.Errorf("%s: %w", field, err)
	}
	return t, nil
}
