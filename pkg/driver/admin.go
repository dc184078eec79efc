package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/adminpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// adminServer does what an operator asks of the running driver. It is served to root of the node
// only: a volume that was taken back takes room again.
type adminServer struct {
	adminpb.UnimplementedAdminServer

	pools    *poolSet
	topology map[string]string // of the node, with one segment
}

// Undelete implements adminpb.AdminServer.
func (s *adminServer) Undelete(
	ctx context.Context, req *adminpb.UndeleteRequest,
) (*adminpb.UndeleteResponse, error) {
	pools, err := s.candidates(req)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%w: no pool is open", volume.ErrUnavailable)
	for _, p := range pools {
		had := p.HasInTrash(req.GetEntry())
		var v volume.Volume
		if v, err = p.Undelete(ctx, req.GetEntry()); err == nil {
			r := s.response(p, v)
			r.WasNotInTrash = !had
			return r, nil
		}
		if !errors.Is(err, volume.ErrNotFound) {
			return nil, err
		}
	}
	// Each pool that cannot be used may have the entry. What err says is of the others.
	if closed := s.pools.refusals(); req.GetPool() == "" && closed != nil {
		return nil, fmt.Errorf("%w (%s)", unavailable(closed), err.Error())
	}
	return nil, err
}

// candidates are the pools that may have an entry. Those that have it in their trash come first:
// another pool may have a volume of that name, and would say that the entry is back already.
func (s *adminServer) candidates(req *adminpb.UndeleteRequest) ([]*pool.Pool, error) {
	if name := req.GetPool(); name != "" {
		p, err := s.pools.ByName(name)
		return []*pool.Pool{p}, err
	}
	var having, others []*pool.Pool
	for _, p := range s.pools.Open() {
		if p.HasInTrash(req.GetEntry()) {
			having = append(having, p)
		} else {
			others = append(others, p)
		}
	}
	return append(having, others...), nil
}

func (s *adminServer) response(p *pool.Pool, v volume.Volume) *adminpb.UndeleteResponse {
	r := &adminpb.UndeleteResponse{
		VolumeId: v.ID.String(), Pool: p.Name(), CapacityBytes: v.CapacityBytes,
		IsBlock: v.Spec.IsBlock(), Namespace: v.Owner.Namespace, Claim: v.Owner.Claim,
		PersistentVolume: v.Owner.PV,
	}
	for key, value := range s.topology {
		r.TopologyKey, r.TopologyValue = key, value
	}
	return r
}
