package controllerserver

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
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
	if !create.Source.IsNone() {
		return nil, fmt.Errorf("%w: parameter %q is %q, a path of the host: nothing is copied to it",
			volume.ErrInvalid, volume.ParamPath, params.Path)
	}
	use := hostpath.Use{Path: params.Path, Type: params.Spec.Type, Namespace: params.Owner.Namespace}
	if err := s.Host.Check(use); err != nil {
		return nil, err
	}
	attributes := maps.Clone(raw)
	maps.DeleteFunc(attributes,
		func(key, _ string) bool { return !slices.Contains(volume.ParameterKeys(), key) })
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:           params.ReferenceID(create.Name),
		CapacityBytes:      create.Size.Choose(),
		VolumeContext:      attributes,
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
