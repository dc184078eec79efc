// Package controllerserver is the CSI services Controller and GroupController: it translates
// between CSI's messages and the node's pools.
package controllerserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/identity"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Pools finds pools. Errors: ErrUnavailable when the one in question is configured and not open,
// ErrNotFound when this node has no such pool.
type Pools interface {
	ByID(id volume.PoolID) (*pool.Pool, error)
	// ByName finds a pool as the configuration calls it; "" is the default one.
	ByName(name string) (*pool.Pool, error)
	// Open lists the open pools in the order of their IDs.
	Open() []*pool.Pool
	// Complete says whether every pool that must be open is. Errors: ErrUnavailable.
	Complete() error
	// Known lists all configured pools, and asks their disks, but not for long.
	Known() []health.Pool
	// Candidates is the pool with an ID, open or not. If it is none of those that have been open since
	// the start, it is all that have not. Errors: ErrNotFound when there are none; ErrUnavailable when
	// one of them is being opened.
	Candidates(id volume.PoolID) ([]health.Pool, error)
}

// Publications says whether a volume, given its open data, is published or staged. Errors: ErrInUse
// when it is.
type Publications interface {
	CheckUnused(ctx context.Context, id volume.ID, data *os.File) error
}

// Host has the operator's rules for paths of the host. Errors: ErrForbidden.
type Host interface {
	Check(use hostpath.Use) error
}

// Git has the operator's rules for content of git. Errors: ErrForbidden.
type Git interface {
	Check(use gitsource.Use) error
}

// Options are what a Server works with.
type Options struct {
	Topology     map[string]string
	Pools        Pools
	Publications Publications
	Host         Host
	Git          Git
	// Limiter limits the I/O of volumes.
	Limiter *iolimit.Limiter
}

// Server implements csi.ControllerServer and csi.GroupControllerServer. What it does not implement
// answers UNIMPLEMENTED and is not advertised.
type Server struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer
	Options

	unknown reportedOnce // pools
}

var _ csi.ControllerServer = (*Server)(nil)

// New makes a Server.
func New(options Options) *Server { return &Server{Options: options} }

// ControllerGetCapabilities advertises what is built, but not ControllerExpandVolume and
// ControllerModifyVolume: external-resizer has no node mode, and its one leader would call its own
// node's driver for all volumes. The router advertises them.
func (*Server) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{
		Capabilities: identity.ControllerCapabilities(),
	}, nil
}

// CreateVolume makes a volume in the pool that the parameters name. It is durable when the call
// returns.
func (s *Server) CreateVolume(
	ctx context.Context, req *csi.CreateVolumeRequest,
) (*csi.CreateVolumeResponse, error) {
	create, err := request.ParseCreate(req)
	if err != nil {
		return nil, err
	}
	if !s.reachable(req.GetAccessibilityRequirements()) {
		return nil, fmt.Errorf("%w, %s: it is not in the requested topology", volume.ErrElsewhere,
			s.place())
	}
	if create.Params.IsReference() {
		return s.createReference(create.Volume, create.Params, req.GetParameters())
	}
	p, err := s.Pools.ByName(create.Params.Pool)
	// another node may have it: make the scheduler look there
	if errors.Is(err, volume.ErrNotFound) {
		return nil, volume.Restate(volume.ErrElsewhere, err) // wrapped, it would go out as NOT_FOUND
	}
	if err != nil {
		return nil, err
	}
	if err := capability.CheckNodes(p, create.Access...); err != nil {
		return nil, err
	}
	if err := s.Limiter.Check(create.Volume.Mutable.IO); err != nil {
		// Another node may be able to: make the scheduler look there.
		return nil, volume.Restate(volume.ErrElsewhere, err)
	}
	v, err := s.create(ctx, p, create.Volume)
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: s.message(v)}, nil
}

// place is this node as messages have it.
func (s *Server) place() string {
	var segments []string
	for _, key := range slices.Sorted(maps.Keys(s.Topology)) {
		segments = append(segments, key+"="+s.Topology[key])
	}
	return strings.Join(segments, ", ")
}

func (s *Server) create(
	ctx context.Context, p *pool.Pool, req volume.CreateRequest,
) (volume.Volume, error) {
	if req.Source.IsNone() {
		return p.Create(ctx, req)
	}
	return p.CreateFrom(ctx, req, sources{s.Pools, s.place()})
}

// reachable says whether the volume may be on this node.
func (s *Server) reachable(want *csi.TopologyRequirement) bool {
	if len(want.GetRequisite()) == 0 {
		return true
	}
	return slices.ContainsFunc(want.GetRequisite(), s.covers)
}

// covers says whether this node is part of a topology.
func (s *Server) covers(t *csi.Topology) bool {
	for key, value := range t.GetSegments() {
		if s.Topology[key] != value {
			return false
		}
	}
	return true
}

// message is a volume as CSI has it. The topology is always there: without it a PV could be deleted
// through a node that does not have the volume.
func (s *Server) message(v volume.Volume) *csi.Volume {
	return &csi.Volume{
		VolumeId:           v.ID.String(),
		CapacityBytes:      v.CapacityBytes,
		AccessibleTopology: []*csi.Topology{{Segments: s.Topology}},
		ContentSource:      sourceMessage(v.Source),
	}
}

// find parses an ID and looks the volume up.
func (s *Server) find(rawID string) (volume.Volume, *pool.Pool, error) {
	id, err := volume.ParseID(rawID)
	if err != nil {
		return volume.Volume{}, nil, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return volume.Volume{}, nil, fmt.Errorf("volume %s: %w", id, err)
	}
	v, err := p.Get(id)
	return v.Volume, p, err
}

// DeleteVolume deletes a volume of this node's pools, durably; one that is gone is no error, one of
// another node's pool is. A reference to a path of the host has nothing that could be deleted. What
// this driver cannot have given out is the ID of no volume; only an inline volume may be called by
// such a handle, and is deleted with its pod.
func (s *Server) DeleteVolume(
	ctx context.Context, req *csi.DeleteVolumeRequest,
) (*csi.DeleteVolumeResponse, error) {
	if volume.IsReferenceID(req.GetVolumeId()) {
		return &csi.DeleteVolumeResponse{}, nil
	}
	id, err := volume.ParseID(req.GetVolumeId())
	if errors.Is(err, volume.ErrNotFound) && !volume.IsInlineHandle(req.GetVolumeId()) {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("delete volume %s: %w", id, err)
	}
	if err := s.checkUnused(ctx, p, id); err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, p.Delete(ctx, id)
}

// checkUnused refuses a volume that a pod can see, or that is staged.
func (s *Server) checkUnused(ctx context.Context, p *pool.Pool, id volume.ID) error {
	data, err := p.AnyData(id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil // nothing there that could be published
	}
	if err != nil {
		return err
	}
	defer data.Close()
	return s.Publications.CheckUnused(ctx, id, data)
}

// ControllerGetVolume describes one volume. Of a reference to a path of the host only the ID is
// known here.
func (s *Server) ControllerGetVolume(
	_ context.Context, req *csi.ControllerGetVolumeRequest,
) (*csi.ControllerGetVolumeResponse, error) {
	if id := req.GetVolumeId(); volume.IsReferenceID(id) {
		return &csi.ControllerGetVolumeResponse{
			Volume: &csi.Volume{VolumeId: id}, Status: &csi.ControllerGetVolumeResponse_VolumeStatus{},
		}, nil
	}
	v, _, err := s.find(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: s.message(v),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{},
	}, nil
}

// ValidateVolumeCapabilities confirms what the volume can do. What it cannot is told in the
// message, not as an error (CSI spec, ValidateVolumeCapabilities).
func (s *Server) ValidateVolumeCapabilities(
	_ context.Context, req *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	check := validateReference
	if !volume.IsReferenceID(req.GetVolumeId()) {
		v, p, err := s.find(req.GetVolumeId())
		if err != nil {
			return nil, err
		}
		check = func(req *csi.ValidateVolumeCapabilitiesRequest) error { return validate(v, p, req) }
	}
	if len(req.GetVolumeCapabilities()) == 0 {
		return nil, fmt.Errorf("%w: volume capabilities are missing", volume.ErrInvalid)
	}
	if unconfirmed := check(req); unconfirmed != nil {
		resp := &csi.ValidateVolumeCapabilitiesResponse{Message: unconfirmed.Error()}
		return resp, nil //nolint:nilerr // that is the answer
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
			VolumeContext:      req.GetVolumeContext(),
			VolumeCapabilities: req.GetVolumeCapabilities(),
			Parameters:         req.GetParameters(),
			MutableParameters:  req.GetMutableParameters(),
		},
	}, nil
}

func validate(v volume.Volume, p *pool.Pool, req *csi.ValidateVolumeCapabilitiesRequest) error {
	access, err := capability.ParseAll(req.GetVolumeCapabilities())
	if err != nil {
		return err
	}
	if err := capability.CheckNodes(p, access...); err != nil {
		return err
	}
	for _, a := range access {
		if err := v.Spec.CheckAccess(a.Type); err != nil {
			return err
		}
	}
	changes, err := request.ParseMutable(req.GetMutableParameters())
	if err != nil {
		return err
	}
	if has := changes.On(v.Mutable); has != v.Mutable {
		return fmt.Errorf("%w: the volume is different%s", volume.ErrIncompatible,
			v.Mutable.Differences(has))
	}
	if len(req.GetParameters()) == 0 {
		return nil
	}
	params, err := volume.ParseParameters(req.GetParameters())
	if err != nil {
		return err
	}
	spec, err := request.SpecFor(params, access)
	if err != nil {
		return err
	}
	spec = spec.DecideAs(v.Spec)
	if spec != v.Spec || params.Pool != "" && params.Pool != p.Name() {
		return fmt.Errorf("%w: the volume is in pool %s (requested: %q)%s",
			volume.ErrIncompatible, p.Name(), params.Pool, v.Spec.Differences(spec))
	}
	return nil
}

// GetCapacity says how large the next volume of a class may be on this node: nothing, where the
// node does not have the class's pool, or not the class's access modes.
func (s *Server) GetCapacity(
	ctx context.Context, req *csi.GetCapacityRequest,
) (*csi.GetCapacityResponse, error) {
	class, err := request.ParseCapacity(req)
	if err != nil {
		return nil, err
	}
	largest, err := s.largest(ctx, class, req.GetAccessibleTopology())
	if err != nil {
		return nil, err
	}
	return request.CapacityMessage(class.Spec, largest, largest), nil
}

// largest is what is left for one volume of that kind. The scheduler compares it with the claim,
// and nothing else: it does not know what an image has at least, nor what a pool cannot limit.
func (s *Server) largest(
	ctx context.Context, class request.Capacity, where *csi.Topology,
) (int64, error) {
	switch {
	case !s.covers(where):
		return 0, nil
	case class.Params.Path != "":
		return unlimited, nil
	}
	p, err := s.Pools.ByName(class.Params.Pool)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		if s.unknown.isFirst(class.Params.Pool) {
			klog.FromContext(ctx).Error(err, "A StorageClass names a pool that is not configured: the "+
				"scheduler reports no free storage for its claims. Is the pool's name mistyped?",
				"pool", class.Params.Pool)
		}
		return 0, nil
	case errors.Is(err, volume.ErrUnavailable):
		return 0, nil
	case err != nil:
		return 0, err
	case capability.CheckNodes(p, class.Access...) != nil:
		return 0, nil //nolint:nilerr // what cannot be made here has no room here
	}
	largest, err := p.Largest(class.Spec)
	// its disk has failed: the scheduler is to look elsewhere
	if errors.Is(err, volume.ErrUnavailable) {
		return 0, nil
	}
	return largest, err
}
