package controllerserver

import (
	"maps"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// createReference answers for a class that names a path of the host: the volume is its attributes, nothing is made until a pod
// wants it, and nothing is counted or enforced. It is bound to this node, like every volume.
func (s *Server) createReference(
	create volume.CreateRequest, params volume.Parameters, raw map[string]string,
) (*csi.CreateVolumeResponse, error) {
	use := hostpath.Use{Path: params.Path, Type: params.Spec.Type, Namespace: params.Owner.Namespace}
	if err := s.Host.Check(use); err != nil {
		return nil, err
	}
	attributes := maps.Clone(raw)
	maps.DeleteFunc(attributes, func(key, _ string) bool { return !slices.Contains(volume.ParameterKeys(), key) })
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:           volume.ReferenceID(create.Name),
		CapacityBytes:      create.Size.Choose(),
		VolumeContext:      attributes,
		AccessibleTopology: []*csi.Topology{{Segments: s.Topology}},
	}}, nil
}
