package controllerserver

import (
	"fmt"
	"math"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// unlimited is the capacity of a class that names a path of the host: nothing of it is counted.
const unlimited = math.MaxInt64

// createReference answers for a class that names a path of the host: the volume is its attributes,
// nothing is made until a pod wants it, and nothing is counted or enforced. It is bound to this
// node, like every volume. Errors: ErrForbidden.
func (s *Server) createReference(
	create volume.CreateRequest, params volume.Parameters, raw map[string]string,
) (*csi.CreateVolumeResponse, error) {
	if !params.Git.IsNone() {
		return s.createGitReference(create, params, raw)
	}
	if !create.Source.IsNone() {
		return nil, fmt.Errorf("%w: parameter %q is %q, a path of the host: nothing is copied to it",
			volume.ErrInvalid, volume.ParamPath, params.Path)
	}
	use := hostpath.Use{Path: params.Path, Type: params.Spec.Type, Namespace: params.Owner.Namespace}
	if err := s.Host.Check(use); err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:           params.ReferenceID(create.Name),
		CapacityBytes:      create.Size.Choose(),
		VolumeContext:      params.ReferenceAttributes(raw, create.Size.Choose()),
		AccessibleTopology: []*csi.Topology{{Segments: s.Topology}},
	}}, nil
}

// createGitReference answers for a class with content of git. Every node could fetch that; the
// router makes it a volume of all nodes. Errors: ErrForbidden.
func (s *Server) createGitReference(
	create volume.CreateRequest, params volume.Parameters, raw map[string]string,
) (*csi.CreateVolumeResponse, error) {
	if !create.Source.IsNone() {
		return nil, fmt.Errorf("%w: parameter %q is %q: a repository is the source of its content, and "+
			"nothing is copied to it", volume.ErrInvalid, volume.ParamURL, params.Git.URL)
	}
	size := create.Size.Choose()
	use := gitsource.Use{Source: params.Git, Namespace: params.Owner.Namespace}
	use.Source.SizeBytes = size
	if err := s.Git.Check(use); err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:           params.ReferenceID(create.Name),
		CapacityBytes:      size,
		VolumeContext:      params.ReferenceAttributes(raw, size),
		AccessibleTopology: []*csi.Topology{{Segments: s.Topology}},
	}}, nil
}

// validateReference confirms a reference's capabilities, and what its ID says that it refers to.
// Whether the rules allow its path is said when a pod wants it: they are the node's, and only then
// is it known whose the pod is.
func validateReference(req *csi.ValidateVolumeCapabilitiesRequest) error {
	if _, err := capability.ParseAll(req.GetVolumeCapabilities()); err != nil {
		return err
	}
	if len(req.GetMutableParameters()) > 0 {
		return fmt.Errorf("%w: there are no mutable parameters", volume.ErrInvalid)
	}
	for _, given := range []map[string]string{req.GetParameters(), req.GetVolumeContext()} {
		if len(given) == 0 {
			continue
		}
		attributes, err := volume.ParseAttributes(given, quantity.Parse)
		if err != nil {
			return err
		}
		if err := attributes.CheckReference(req.GetVolumeId()); err != nil {
			return err
		}
	}
	return nil
}
