// Package nodeserver is the CSI Node service: it makes volumes of the node's pools visible in pods,
// by bind mounts.
package nodeserver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Pools finds the pool that holds a volume. Errors: ErrNotFound when no pool of this node has that
// ID, ErrUnavailable when one that may have it is not open.
type Pools interface {
	ByID(id volume.PoolID) (*pool.Pool, error)
	// ByName finds a pool as the configuration calls it; "" is the default one.
	ByName(name string) (*pool.Pool, error)
	// Open lists the open pools.
	Open() []*pool.Pool
	// Known lists all configured pools, and asks their disks, but not for long.
	Known() []health.Pool
	// Candidates is the pool with an ID, open or not. If it is none of those that have been open since
	// the start, it is all that have not. Errors: ErrNotFound when there are none; ErrUnavailable when
	// one of them is being opened.
	Candidates(id volume.PoolID) ([]health.Pool, error)
	// Use keeps the pools that are open now open until the end.
	Use() (end func())
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
	Host         *hostpath.Host
	// Git has content of git repositories; nil allows none.
	Git *gitsource.Contents
	// NodeReasons is why the node can have no volumes; nil is never.
	NodeReasons func() []volume.Reason
	// Limiter limits the I/O of volumes.
	Limiter *iolimit.Limiter
	// Proc is a proc filesystem that has the node's processes, if the driver sees it; else its own
	// /proc is used.
	Proc string
}

// Server implements csi.NodeServer. What it does not implement answers UNIMPLEMENTED and is not
// advertised.
type Server struct {
	csi.UnimplementedNodeServer
	Options

	// asking are the questions to the filesystems of host paths and of volumes without a record, and
	// askingPools those to the pools' own: a tenant's path that hangs is not in their way.
	asking, askingPools *stuck.Calls
	// askingHealth are those that find out what is wrong with volumes.
	askingHealth *stuck.Calls

	limitFailure string // which RefreshLimits has logged last
}

var _ csi.NodeServer = (*Server)(nil)

// New makes a Server.
func New(options Options) *Server {
	return &Server{
		Options:     options,
		asking:      stuck.NewCalls(stuck.Patience),
		askingPools: stuck.NewCalls(stuck.Patience),

		askingHealth: stuck.NewCalls(healthPatience),
	}
}

// NodeGetInfo tells the scheduler where this node's volumes are usable: on this node.
func (s *Server) NodeGetInfo(
	context.Context, *csi.NodeGetInfoRequest,
) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId:             s.NodeName,
		MaxVolumesPerNode:  s.limit(),
		AccessibleTopology: &csi.Topology{Segments: s.Topology},
	}, nil
}

// limit is the number of volumes that the scheduler is told. If there is no limit, it is a number
// that no node reaches: when a driver registers without one, the scheduler of Kubernetes 1.37 does
// not try the pods again that have waited for it (preventPodSchedulingIfMissing). They wait for its
// next look at all pods, up to 5.5 minutes (isSchedulableAfterCSINodeUpdated,
// pkg/scheduler/framework/plugins/nodevolumelimits/csi.go).
func (s *Server) limit() int64 {
	if s.MaxVolumes == 0 {
		return math.MaxInt32 // the most that a CSINode object can say
	}
	return s.MaxVolumes
}

// NodeGetCapabilities advertises what is built, nothing more.
func (*Server) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	types := []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	}
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range types {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// NodeStageVolume makes sure that the volume can be published. Neither a directory nor a file needs
// anything mounted in between, so the staging path stays as it is; the filesystem of an image is
// mounted there. A path of the host is looked at when a pod wants it: until then nobody knows whose
// it is.
func (s *Server) NodeStageVolume(
	ctx context.Context, req *csi.NodeStageVolumeRequest,
) (*csi.NodeStageVolumeResponse, error) {
	if err := volume.CheckHandle(req.GetVolumeId()); err != nil {
		return nil, err
	}
	at, err := s.parseTarget("staging_target_path", req.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	access, err := capability.Parse(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	if volume.IsReference(req.GetVolumeContext()) {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	v, err := s.managed(req.GetVolumeId(), access)
	if err != nil {
		return nil, err
	}
	if v.Spec.IsImage() && !v.Spec.IsBlock() {
		return &csi.NodeStageVolumeResponse{}, s.mountImage(ctx, v, at)
	}
	open := v.Data
	if v.Spec.IsBlock() { // its size is what the pod sees
		open = v.OpenImage
	}
	data, err := open()
	if err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, data.Close()
}

// NodeUnstageVolume undoes what NodeStageVolume did for an image.
func (s *Server) NodeUnstageVolume(
	ctx context.Context, req *csi.NodeUnstageVolumeRequest,
) (*csi.NodeUnstageVolumeResponse, error) {
	if err := volume.CheckHandle(req.GetVolumeId()); err != nil {
		return nil, err
	}
	at, err := s.parseTarget("staging_target_path", req.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil { // an inline volume or a path of the host
		return &csi.NodeUnstageVolumeResponse{}, nil //nolint:nilerr // said above
	}
	if p, err := s.Pools.ByID(id.Pool()); err == nil { // a pool that is not open changes no group
		if err := p.StopSetGroup(ctx, id); err != nil {
			return nil, err
		}
	}
	if err := s.unmountImage(ctx, id, at); err != nil {
		return nil, err
	}
	if v, ok := s.blockVolume(id); ok {
		return &csi.NodeUnstageVolumeResponse{}, s.releaseDevices(ctx, v)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// NodePublishVolume makes the volume visible at the target path.
func (s *Server) NodePublishVolume(
	ctx context.Context, req *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	r, err := s.parsePublish(req)
	if err != nil {
		return nil, err
	}
	if r.attributes.Memory {
		err = mount.Memory(r.target, r.attributes.SizeBytes, r.access.Group.Of(r.attributes.Spec),
			r.access.Mount)
	} else {
		err = s.publishSource(ctx, r)
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", r.handle, err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (s *Server) publishSource(ctx context.Context, r publishRequest) error {
	src, err := s.open(ctx, r)
	if err != nil {
		return err
	}
	defer src.close()
	src.pod = r.podName()
	err = s.publish(ctx, r.target, src)
	if err != nil && !r.attributes.Git.IsNone() {
		s.Git.Release(r.target)
	}
	if err != nil && src.block != nil {
		err = errors.Join(err, s.releaseDevices(ctx, *src.block))
	}
	if err == nil && src.report != nil {
		return src.report()
	}
	return err
}

// publish enters the publication and makes it so. The group can write before anybody sees the
// volume.
func (s *Server) publish(ctx context.Context, target mount.Target, src mountSource) error {
	pub := publication{volume: src.volume, exclusive: src.access.Exclusive, pod: src.pod}
	undo, err := s.admit(target, pub, src.views())
	if err != nil {
		return err
	}
	switch src.shown {
	case showsLive:
	case showsDead:
		if err = mount.Unmount(target); err == nil {
			err = s.show(ctx, target, src)
		}
	default:
		err = s.show(ctx, target, src)
	}
	if err != nil {
		undo()
	}
	return err
}

func (s *Server) show(ctx context.Context, target mount.Target, src mountSource) error {
	if src.managed != nil {
		if err := src.managed.SetGroup(ctx, src.file, src.group()); err != nil {
			return err
		}
	}
	return mount.Bind(src.file, target, src.access.Mount)
}

// admit enters a publication that is about to be made. Before it refuses one it looks at the
// mounts: somebody may have unmounted by hand. The caller has the volume and the target for itself
// (pkg/rpc), and only of these a memory may be dropped: another volume could be about to appear at
// another target. Errors: ErrInUse.
func (s *Server) admit(t mount.Target, pub publication, views []*os.File) (undo func(), err error) {
	undo, err = s.Publications.admit(t, pub)
	if !errors.Is(err, volume.ErrInUse) {
		return undo, err
	}
	if _, err := s.Publications.verify(pub.volume, views...); err != nil {
		return nil, err
	}
	mounted, err := mount.Mounted(t)
	if err != nil {
		return nil, err
	}
	if !mounted {
		s.Publications.forget(t)
	}
	return s.Publications.admit(t, pub)
}

// NodeUnpublishVolume takes the volume off the target path, and deletes it if it was inline. It
// needs no pool: a volume whose disk has died can be unpublished.
func (s *Server) NodeUnpublishVolume(
	ctx context.Context, req *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	handle := req.GetVolumeId()
	if err := volume.CheckHandle(handle); err != nil {
		return nil, err
	}
	target, err := s.parseTarget("target_path", req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	if err := s.checkPublished(handle, target); err != nil {
		return nil, err
	}
	id, parseErr := volume.ParseID(handle)
	block, isBlock := s.blockVolume(id)
	var devices []int
	if isBlock {
		devices = image.NodesAt(target)
	}
	if err := s.unbind(handle, target); err != nil {
		return nil, fmt.Errorf("unpublish volume %s: %w", handle, err)
	}
	s.Publications.forget(target)
	s.Git.Release(target)
	switch {
	case isBlock:
		return &csi.NodeUnpublishVolumeResponse{}, s.releaseDevices(ctx, block, devices...)
	case parseErr == nil:
		return &csi.NodeUnpublishVolumeResponse{}, nil
	default:
		return &csi.NodeUnpublishVolumeResponse{}, s.deleteInline(ctx, handle, target)
	}
}

// unbind takes the volume off a target. A volume of a pool stays while a process uses the mount,
// because the volume may be deleted next. A path of the host stays as it is anyway, and the process
// may be one that nobody can end: a driver's, which waits for a filesystem that does not answer.
func (s *Server) unbind(handle string, target mount.Target) error {
	err := mount.Unbind(target)
	if errors.Is(err, volume.ErrInUse) && !s.isInPool(handle) {
		return mount.UnbindBusy(target)
	}
	return err
}

// isInPool reports whether requests call a volume of an open pool by that handle.
func (s *Server) isInPool(handle string) bool {
	if volume.IsID(handle) {
		return true
	}
	name, err := volume.ParseName(handle)
	return err == nil && len(s.poolsWithInline(name)) > 0
}

// checkPublished refuses to take something off a target that is not the volume. What the driver
// does not know of, because the volume's pool is not open, the mount table does. Errors: ErrInUse.
func (s *Server) checkPublished(handle string, target mount.Target) error {
	there, known := s.Publications.at(target)
	if known && !s.isHandleOf(handle, there) {
		mounted, err := mount.Mounted(target)
		if mounted || err != nil {
			return errors.Join(
				fmt.Errorf("%w: volume %s is published at %s, not %s", volume.ErrInUse, there, target, handle),
				err,
			)
		}
	}
	id, err := volume.ParseID(handle)
	if known || err != nil { // an inline volume or a path of the host: any mount may be theirs
		return nil //nolint:nilerr // said above
	}
	top, mounted, err := mount.At(target)
	if err != nil || !mounted || isPathOf(id, top.Root) || image.MayShow(id, target) {
		return err
	}
	return fmt.Errorf(
		"%w: what is mounted at %s is %s of its filesystem, not volume %s: it is left alone",
		volume.ErrInUse,
		target,
		top.Root,
		handle,
	)
}

// isPathOf reports whether a path in a pool leads through the volume's directory. In the trash the
// directory has a suffix.
func isPathOf(id volume.ID, path string) bool {
	return slices.ContainsFunc(strings.Split(path, "/"), func(part string) bool {
		return part == id.Dir() || strings.HasPrefix(part, id.Dir()+".")
	})
}

// NodeGetVolumeStats costs a few system calls, whatever the volume holds. One call at a time asks
// for a volume.
func (s *Server) NodeGetVolumeStats(
	ctx context.Context, req *csi.NodeGetVolumeStatsRequest,
) (*csi.NodeGetVolumeStatsResponse, error) {
	handle := req.GetVolumeId()
	if err := volume.CheckHandle(handle); err != nil {
		return nil, err
	}
	target, err := s.parseTarget("volume_path", req.GetVolumePath())
	if err != nil && req.GetVolumePath() != "" {
		// Where no target can be, the volume "does not exist on specified volume_path" either (CSI
		// spec, NodeGetVolumeStats Errors); csi-test asks with a relative path.
		return nil, fmt.Errorf("%w: volume %s is not published at %q", volume.ErrNotFound, handle,
			req.GetVolumePath())
	}
	if err != nil {
		return nil, err
	}
	usage, err := s.usage(ctx, handle, target)
	if err != nil {
		return nil, err
	}
	// of a raw block volume nobody but its reader knows more
	if usage == (volume.Usage{TotalBytes: usage.TotalBytes}) {
		return &csi.NodeGetVolumeStatsResponse{
			Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: usage.TotalBytes}},
		}, nil
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{
			Unit:      csi.VolumeUsage_BYTES,
			Total:     usage.TotalBytes,
			Used:      usage.UsedBytes,
			Available: usage.AvailableBytes,
		},
		{
			Unit:      csi.VolumeUsage_INODES,
			Total:     usage.TotalInodes,
			Used:      usage.UsedInodes,
			Available: usage.AvailableInodes,
		},
	}}, nil
}

// NodeExpandVolume grows a volume of a pool, published or not, while pods use it. There is no
// controller's part: external-resizer raises the size of the PersistentVolume and kubelet calls the
// node that has it.
func (s *Server) NodeExpandVolume(
	ctx context.Context, req *csi.NodeExpandVolumeRequest,
) (*csi.NodeExpandVolumeResponse, error) {
	size, err := volume.ParseSizeRange(req.GetCapacityRange().GetRequiredBytes(),
		req.GetCapacityRange().GetLimitBytes())
	if err != nil {
		return nil, err
	}
	if req.GetVolumePath() == "" {
		return nil, fmt.Errorf("%w: volume_path is empty", volume.ErrInvalid)
	}
	p, id, err := s.find(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	at, err := s.parseTarget("volume_path", req.GetVolumePath())
	if err != nil {
		return nil, err
	}
	v, err := p.Expand(ctx, id, size)
	if err != nil {
		return nil, err
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: v.CapacityBytes},
		s.growStaged(ctx, staging.Volume{Volume: v}, req.GetStagingTargetPath(), at)
}

// find returns a volume's pool. A volume that is not there is told before any other fault of a
// request. Errors: ErrNotFound, also for an inline volume and a path of the host, whose handles are
// no IDs.
func (s *Server) find(handle string) (*pool.Pool, volume.ID, error) {
	if !volume.IsID(handle) && volume.CheckHandle(handle) == nil {
		return nil, volume.ID{}, fmt.Errorf(
			"%w: volume %q is in no pool of this driver, and has no size that could grow",
			volume.ErrNotFound,
			handle,
		)
	}
	id, err := volume.ParseID(handle)
	if err != nil {
		return nil, volume.ID{}, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return nil, volume.ID{}, fmt.Errorf("volume %s: %w", id, err)
	}
	_, err = p.Get(id)
	return p, id, err
}

// usage asks the pool for its own volumes, wherever they are mounted: kubelet asks for a raw block
// volume's at a mount of its own (Kubernetes pkg/volume/csi/csi_plugin.go, NewMetricsCsi). Of
// inline ones and of paths of the host, which nobody remembers over a restart, it asks the mount,
// whose filesystem may not answer. Errors: ErrNotFound, ErrUnresponsive.
func (s *Server) usage(
	ctx context.Context, handle string, target mount.Target,
) (volume.Usage, error) {
	there, known := s.Publications.at(target)
	if known && !s.isHandleOf(handle, there) {
		return volume.Usage{}, fmt.Errorf("%w: volume %s is not published at %s", volume.ErrNotFound,
			handle, target)
	}
	if !volume.IsID(handle) {
		q := stuck.Question{Key: "usage of " + mount.FilesystemAt(target), Path: target.String()}
		return stuck.Do(ctx, s.asking, q, func() (volume.Usage, error) {
			return mount.Usage(target)
		}, nil)
	}
	leave, err := s.askingPools.Enter(ctx,
		stuck.Question{Key: target.String(), Path: target.String()})
	if err != nil {
		return volume.Usage{}, err
	}
	defer leave()
	return s.managedUsage(handle, target)
}

func (s *Server) managedUsage(handle string, target mount.Target) (volume.Usage, error) {
	id, err := volume.ParseID(handle)
	if err != nil {
		return volume.Usage{}, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return volume.Usage{}, fmt.Errorf("volume %s: %w", id, err)
	}
	v, err := p.Get(id)
	if err != nil {
		return volume.Usage{}, err
	}
	u, err := shownUsage(v, target)
	if err == nil && v.EnforcesSize() && !v.Spec.IsBlock() { // else the use is everybody's, or unknown
		s.Publications.noteUse(handle, u.UsedBytes)
	}
	return u, err
}

func shownUsage(v pool.Volume, target mount.Target) (volume.Usage, error) {
	if v.Spec.IsImage() {
		return imageUsage(staging.Volume{Volume: v}, target)
	}
	data, err := v.Data()
	if err != nil {
		return volume.Usage{}, err
	}
	defer data.Close()
	if shown, err := mount.Shows(target, data); err != nil || !shown {
		return volume.Usage{}, errors.Join(err,
			fmt.Errorf("%w: volume %s is no longer mounted at %s", volume.ErrNotFound, v.ID, target))
	}
	return v.Usage(data)
}

// isHandleOf says whether requests call a published volume by that handle: its ID or, for an inline
// volume, any name. That of kubelet's form needs no look at the pool: no volume but an inline one
// is asked for by it.
func (s *Server) isHandleOf(handle, published string) bool {
	if handle == published {
		return true
	}
	id, err := volume.ParseID(published)
	if err != nil {
		return false
	}
	name, err := volume.ParseName(handle)
	return err == nil && id.Dir() == name.Dir() && (volume.IsInlineHandle(handle) || s.isInline(id))
}

// isInline says whether the volume is known to live with a pod.
func (s *Server) isInline(id volume.ID) bool {
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return false
	}
	v, err := p.Get(id)
	return err == nil && v.IsInline()
}

func (s *Server) parseTarget(field, path string) (mount.Target, error) {
	t, err := mount.ParseTarget(s.KubeletDir, path)
	if err != nil {
		return mount.Target{}, fmt.Errorf("%s: %w", field, err)
	}
	return t, nil
}
