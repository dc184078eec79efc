package controllerserver

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// maxPage bounds a page, so that an answer stays far below gRPC's 4 MiB; there is a token for the
// rest.
const maxPage = 1000

// ListVolumes lists volumes in the order of their IDs. A token is the ID of the last volume of the
// page before, so pages stay right while volumes come and go: what exists during the whole listing
// is listed exactly once.
func (s *Server) ListVolumes(
	_ context.Context, req *csi.ListVolumesRequest,
) (*csi.ListVolumesResponse, error) {
	after, limit, err := parsePage(req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	if err := s.Pools.Complete(); err != nil { // a list that lacks volumes is not the list
		return nil, err
	}
	page := s.page(after, limit+1) // one more says whether there is a next page
	resp := &csi.ListVolumesResponse{}
	if len(page) > limit {
		page = page[:limit]
		resp.NextToken = page[limit-1].ID.String()
	}
	for _, v := range page {
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{Volume: s.message(v)})
	}
	return resp, nil
}

// parsePage reads which page of a list of volumes is wanted. Errors: ErrInvalid, ErrBadToken.
func parsePage(token string, maxEntries int32) (after volume.ID, limit int, err error) {
	if maxEntries < 0 {
		return volume.ID{}, 0, fmt.Errorf("%w: max_entries is %d: want 0 for as many as possible, or more",
			volume.ErrInvalid, maxEntries)
	}
	limit = maxPage
	if maxEntries > 0 {
		limit = min(int(maxEntries), maxPage)
	}
	if token == "" {
		return volume.ID{}, limit, nil
	}
	if after, err = volume.ParseID(token); err != nil {
		return volume.ID{}, 0, fmt.Errorf("%w: %q is no token of this driver", volume.ErrBadToken, token)
	}
	return after, limit, nil
}

// page collects over the pools, which are in the order of their IDs.
func (s *Server) page(after volume.ID, limit int) []volume.Volume {
	var page []volume.Volume
	for _, p := range s.Pools.Open() {
		switch {
		case p.ID() < after.Pool():
			continue
		case p.ID() == after.Pool():
			page = append(page, p.List(after.Dir(), limit)...)
		default:
			page = append(page, p.List("", limit-len(page))...)
		}
		if len(page) >= limit {
			break
		}
	}
	return page
}
