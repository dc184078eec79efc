package router

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/identity"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ControllerGetCapabilities advertises what is built, nothing more.
func (*Router) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{
		Capabilities: identity.ControllerCapabilities(
			csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
			csi.ControllerServiceCapability_RPC_MODIFY_VOLUME),
	}, nil
}

// CreateVolume has a volume made on the node that place finds. The node gets only its own part of
// the topology: a request may name all nodes of the cluster, and a node takes smaller messages.
func (r *Router) CreateVolume(
	ctx context.Context, req *csi.CreateVolumeRequest,
) (*csi.CreateVolumeResponse, error) {
	chosen, err := r.place(ctx, req)
	if err != nil {
		return nil, err
	}
	if req.GetAccessibilityRequirements() != nil {
		req.AccessibilityRequirements = r.onlyOn(chosen.node)
	}
	resp, err := call(ctx, r, chosen.node, "CreateVolume", csi.ControllerClient.CreateVolume, req)
	chosen.end(err)
	if err != nil {
		return nil, err
	}
	if err := r.checkVolume(chosen.node, resp.GetVolume()); err != nil {
		return nil, err
	}
	if volume.HasGit(req.GetParameters()) {
		return resp, ofEveryNode(chosen.node, req.GetParameters(), resp.GetVolume())
	}
	return resp, nil
}

// ofEveryNode makes a volume with content of git one of all nodes: each can fetch it. The node may
// have answered only what the class says.
func ofEveryNode(n *node, class map[string]string, v *csi.Volume) error {
	for key, value := range v.GetVolumeContext() {
		if key != volume.ParamSize && class[key] != value {
			return fmt.Errorf("node %s has answered with the attribute %s: %s", n.name, clip(key),
				clip(value))
		}
	}
	for _, key := range volume.GitKeys() { // a key that is missing has another value: the default
		if value, wanted := class[key]; wanted && v.GetVolumeContext()[key] != value {
			return fmt.Errorf("node %s has answered without the class's %s", n.name, key)
		}
	}
	v.AccessibleTopology = nil
	return nil
}

func (r *Router) onlyOn(n *node) *csi.TopologyRequirement {
	only := []*csi.Topology{{Segments: volume.Topology(r.opts.DriverName, n.name)}}
	return &csi.TopologyRequirement{Requisite: only, Preferred: only}
}

// checkVolume refuses a volume that the node cannot have made: a node must not have
// PersistentVolumes made for another one.
func (r *Router) checkVolume(n *node, v *csi.Volume) error {
	id, err := volume.ParseID(v.GetVolumeId())
	if err != nil && !volume.IsReferenceID(v.GetVolumeId()) {
		return fmt.Errorf("node %s has answered with a volume %q", n.name, clip(v.GetVolumeId()))
	}
	if err == nil {
		if err := r.checkOwner(n, id.Pool()); err != nil {
			return err
		}
	}
	return r.checkTopology(n, v.GetAccessibleTopology())
}

// checkOwner refuses a pool that another node has.
func (r *Router) checkOwner(n *node, id volume.PoolID) error {
	if owner := r.fleet.ownerOf(id); owner != nil && owner != n {
		return fmt.Errorf("node %s has answered with pool %s, which node %s has", n.name, id, owner.name)
	}
	return nil
}

func (r *Router) checkTopology(n *node, topologies []*csi.Topology) error {
	for _, t := range topologies {
		if value, ok := r.valueOf(t); !ok || value != volume.TopologyValue(n.name) {
			return fmt.Errorf("node %s has answered with the topology %s", n.name,
				clip(fmt.Sprint(t.GetSegments())))
		}
	}
	if len(topologies) != 1 {
		return fmt.Errorf("node %s has answered with %d topologies", n.name, len(topologies))
	}
	return nil
}

// DeleteVolume has a volume deleted by its node. A reference to a path of the host has nothing that
// could be deleted, and what this driver cannot have given out is the ID of no volume.
func (r *Router) DeleteVolume(
	ctx context.Context, req *csi.DeleteVolumeRequest,
) (*csi.DeleteVolumeResponse, error) {
	id, err := volume.ParseID(req.GetVolumeId())
	if volume.IsReferenceID(req.GetVolumeId()) ||
		errors.Is(err, volume.ErrNotFound) && !volume.IsInlineHandle(req.GetVolumeId()) {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	n, err := r.ownerOf(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("delete volume %s: %w", id, err)
	}
	return call(ctx, r, n, "DeleteVolume", csi.ControllerClient.DeleteVolume, req)
}

// nodeOfVolume is the node that answers for a volume: any one for a reference to a path of the
// host. Errors: ErrNotFound, ErrInvalid, ErrNotLinked.
func (r *Router) nodeOfVolume(rawID string) (*node, error) {
	if volume.IsReferenceID(rawID) {
		return r.anyNode()
	}
	id, err := volume.ParseID(rawID)
	if err != nil {
		return nil, err
	}
	n, err := r.ownerOf(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	return n, nil
}

// ControllerGetVolume asks the volume's node.
func (r *Router) ControllerGetVolume(
	ctx context.Context, req *csi.ControllerGetVolumeRequest,
) (*csi.ControllerGetVolumeResponse, error) {
	n, err := r.nodeOfVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return call(ctx, r, n, "ControllerGetVolume", csi.ControllerClient.ControllerGetVolume, req)
}

// ValidateVolumeCapabilities asks the volume's node.
func (r *Router) ValidateVolumeCapabilities(
	ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	n, err := r.nodeOfVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return call(ctx, r, n, "ValidateVolumeCapabilities",
		csi.ControllerClient.ValidateVolumeCapabilities, req)
}

// ControllerExpandVolume has a volume grown by its node.
func (r *Router) ControllerExpandVolume(
	ctx context.Context, req *csi.ControllerExpandVolumeRequest,
) (*csi.ControllerExpandVolumeResponse, error) {
	n, err := r.nodeOfVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return call(ctx, r, n, "ControllerExpandVolume", csi.ControllerClient.ControllerExpandVolume, req)
}
