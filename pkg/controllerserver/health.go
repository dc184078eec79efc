package controllerserver

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ControllerGetVolumeHealth says what is wrong with a volume, from memory, and what is wrong with
// its pool. A reference to a path of the host has nothing that could be known here. Errors:
// ErrNotFound; ErrUnavailable when a pool that has not been open since the start may have the
// volume.
func (s *Server) ControllerGetVolumeHealth(
	_ context.Context, req *csi.ControllerGetVolumeHealthRequest,
) (*csi.ControllerGetVolumeHealthResponse, error) {
	handle := req.GetVolumeId()
	if volume.IsReferenceID(handle) {
		return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: health.Message(handle, nil)}, nil
	}
	id, err := volume.ParseID(handle)
	if err != nil {
		return nil, err
	}
	candidates, err := s.Pools.Candidates(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	p := candidates[0]
	if p.Pool == nil {
		_, err := s.Pools.ByID(id.Pool()) // it says which pools are not open, and why
		return nil, fmt.Errorf("volume %s: %w", id, cmp.Or(err, volume.ErrUnavailable))
	}
	faults, err := p.Pool.Faults(id)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{
		VolumeHealth: health.Message(handle, append(p.Conditions(), health.Of(faults)...)),
	}, nil
}

// ControllerListVolumeHealth lists the volumes with adverse conditions, in pages as ListVolumes
// does. All volumes of a pool that cannot be used are listed, also when its disk has gone. Errors:
// ErrUnavailable when a required pool has not been open since the start: what was wrong with its
// volumes before may still be.
func (s *Server) ControllerListVolumeHealth(
	_ context.Context, req *csi.ControllerListVolumeHealthRequest,
) (*csi.ControllerListVolumeHealthResponse, error) {
	after, limit, err := parsePage(req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	pools, err := s.knownPools()
	if err != nil {
		return nil, err
	}
	page := unhealthyPage(pools, after, limit+1) // one more says whether there is a next page
	resp := &csi.ControllerListVolumeHealthResponse{Entries: page}
	if len(page) > limit {
		resp.Entries = page[:limit]
		resp.NextToken = page[limit-1].GetVolumeId()
	}
	return resp, nil
}

// knownPools are the pools whose volumes are known, in the order of their IDs. Errors:
// ErrUnavailable.
func (s *Server) knownPools() (known []health.Pool, err error) {
	for _, p := range s.Pools.Known() {
		switch {
		case p.Pool != nil:
			known = append(known, p)
		case !p.IsOptional:
			return nil, fmt.Errorf("%w: pool %s has not been open since the driver's start (%s), so its "+
				"volumes are not known", volume.ErrUnavailable, p.Name, p.Reason)
		}
	}
	slices.SortFunc(known, func(a, b health.Pool) int { return cmp.Compare(a.Pool.ID(), b.Pool.ID()) })
	return known, nil
}

func unhealthyPage(pools []health.Pool, after volume.ID, limit int) (page []*csi.VolumeHealth) {
	for _, p := range pools {
		if p.Pool.ID() < after.Pool() || len(page) >= limit {
			continue
		}
		afterDir := ""
		if p.Pool.ID() == after.Pool() {
			afterDir = after.Dir()
		}
		page = append(page, unhealthyOf(p, afterDir, limit-len(page))...)
	}
	return page
}

func unhealthyOf(p health.Pool, afterDir string, limit int) (page []*csi.VolumeHealth) {
	if p.Reason == "" {
		for _, v := range p.Pool.Unhealthy(afterDir, limit) {
			page = append(page, health.Message(v.ID.String(), health.Of(v.Faults)))
		}
		return page
	}
	for _, v := range p.Pool.List(afterDir, limit) {
		faults, err := p.Pool.Faults(v.ID)
		if err != nil { // it has been deleted meanwhile
			continue
		}
		page = append(page,
			health.Message(v.ID.String(), append(p.Conditions(), health.Of(faults)...)))
	}
	return page
}
