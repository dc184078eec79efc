// Package request reads requests of the CSI services Controller and GroupController into values of
// pkg/volume, for the node's services and for the router.
package request

import (
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Create is a CreateVolumeRequest.
type Create struct {
	// Volume has the name, the size, the specification and the source.
	Volume volume.CreateRequest
	Params volume.Parameters
	Access []capability.Access
}

// ParseCreate reads all of a CreateVolumeRequest but its topology. Errors: ErrInvalid,
// ErrOutOfRange, and ErrNotFound for a source that this driver cannot have made.
func ParseCreate(req *csi.CreateVolumeRequest) (Create, error) {
	name, err := volume.ParseNewName(req.GetName())
	if err != nil {
		return Create{}, err
	}
	size, err := volume.ParseSizeRange(req.GetCapacityRange().GetRequiredBytes(),
		req.GetCapacityRange().GetLimitBytes())
	if err != nil {
		return Create{}, err
	}
	params, err := volume.ParseParameters(req.GetParameters())
	if err != nil {
		return Create{}, err
	}
	source, err := ParseSource(req.GetVolumeContentSource())
	if err != nil {
		return Create{}, err
	}
	changes, err := ParseMutable(req.GetMutableParameters())
	if err != nil {
		return Create{}, err
	}
	access, err := capability.ParseAll(req.GetVolumeCapabilities())
	if err != nil {
		return Create{}, err
	}
	spec, err := SpecFor(params, access)
	if err != nil {
		return Create{}, err
	}
	if !params.Git.IsNone() && !changes.IsNone() {
		return Create{}, fmt.Errorf("%w: content of git has no mutable parameters: take the "+
			"VolumeAttributesClass off the claim", volume.ErrInvalid)
	}
	if params.Path != "" && !changes.IsNone() {
		return Create{}, fmt.Errorf("%w: parameter %q is %q: a path of the host has no mutable parameters: "+
			"take the VolumeAttributesClass off the claim", volume.ErrInvalid, volume.ParamPath, params.Path)
	}
	return Create{
		Volume: volume.CreateRequest{
			Name: name, Size: size, Spec: spec, Owner: params.Owner, Source: source,
			Mutable: changes.On(volume.Mutable{}),
		},
		Params: params,
		Access: access,
	}, nil
}

// ParseMutable reads what a VolumeAttributesClass says. Errors: ErrInvalid.
func ParseMutable(params map[string]string) (volume.Changes, error) {
	return volume.ParseMutable(params, quantity.Parse)
}

// SpecFor is what a class makes for those capabilities. Errors: ErrInvalid.
func SpecFor(params volume.Parameters, access []capability.Access) (volume.Spec, error) {
	t, err := capability.Type(access)
	if err != nil {
		return volume.Spec{}, err
	}
	return params.SpecFor(t)
}

// Capacity is a GetCapacityRequest without its topology.
type Capacity struct {
	Params volume.Parameters
	Access []capability.Access
	// Spec is empty if the class contradicts itself or the capabilities. A mistake is not a lack of
	// room, which is what the scheduler would say: CreateVolume names the mistake.
	Spec volume.Spec
}

// Class is what the request says of the pool.
func (c Create) Class() Capacity {
	return Capacity{Params: c.Params, Access: c.Access, Spec: c.Volume.Spec}
}

// ParseCapacity reads a GetCapacityRequest. Errors: ErrInvalid, for capabilities.
func ParseCapacity(req *csi.GetCapacityRequest) (c Capacity, err error) {
	if c.Params, err = volume.ParseParameters(req.GetParameters()); err != nil {
		c.Params = volume.Parameters{Pool: req.GetParameters()[volume.ParamPool]}
	}
	if caps := req.GetVolumeCapabilities(); len(caps) > 0 {
		if c.Access, err = capability.ParseAll(caps); err != nil {
			return Capacity{}, err
		}
	}
	if c.Spec, err = SpecFor(c.Params, c.Access); err != nil {
		c.Spec = volume.Spec{}
	}
	return c, nil
}

// CapacityMessage is the answer to a GetCapacityRequest: so many bytes are there, and the largest
// volume has that many. The smallest is that of an image's filesystem; for a directory it is not
// said.
func CapacityMessage(spec volume.Spec, available, largest int64) *csi.GetCapacityResponse {
	resp := &csi.GetCapacityResponse{
		AvailableCapacity: available,
		MaximumVolumeSize: wrapperspb.Int64(largest),
	}
	if spec.IsImage() {
		resp.MinimumVolumeSize = wrapperspb.Int64(spec.MinimumBytes())
	}
	return resp
}
