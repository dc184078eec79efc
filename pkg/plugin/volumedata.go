package plugin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxAskedVolumes is how many volumes are asked for one by one.
	maxAskedVolumes = 50
	// askedVolumesTimeout bounds all these requests together.
	askedVolumesTimeout = 30 * time.Second
)

// fillEach asks for the volumes that a list has not had, each by its ID: a list of all volumes of a
// large cluster takes long. Volumes of nodes that are missing are not asked for.
func (s *session) fillEach(
	ctx context.Context, volumes []Volume, missing []status.Missing,
) (hints []string, err error) {
	absent := map[string]bool{}
	for _, m := range missing {
		absent[m.Node], absent[volume.TopologyValue(m.Node)] = true, true
	}
	var wanted []*Volume
	further := 0
	for i := range volumes {
		switch v := &volumes[i]; {
		case !v.lacksData() || absent[v.Node]:
		case len(wanted) == maxAskedVolumes:
			further++
		default:
			wanted = append(wanted, v)
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askedVolumesTimeout)
	defer cancel()
	missing, err = s.askVolumes(ctx, wanted)
	hints = hintsOf("use of volumes", missing)
	if further > 0 {
		hints = append(hints, fmt.Sprintf("use of %d further volumes: name the claims, or look at all "+
			"namespaces with -A", further))
	}
	return hints, err
}

// askVolumes asks a controller for volumes, or the drivers of their nodes.
func (s *session) askVolumes(
	ctx context.Context, wanted []*Volume,
) (missing []status.Missing, err error) {
	targets, err := s.targets(ctx)
	if err != nil {
		return nil, err
	}
	if s.installation.IsCentral() {
		err = s.askAny(ctx, targets, func(ctx context.Context, api reach.API) error {
			missing = askEach(ctx, api, wanted)
			return nil
		})
		return missing, err
	}
	byNode := map[string][]*Volume{}
	for _, v := range wanted {
		byNode[v.Node] = append(byNode[v.Node], v)
	}
	for _, t := range targets {
		some := byNode[volume.TopologyValue(t.node)]
		if len(some) == 0 {
			continue
		}
		err := s.askOne(ctx, t, func(ctx context.Context, api reach.API) error {
			missing = append(missing, askEach(ctx, api, some)...)
			return nil
		})
		if err != nil {
			missing = append(missing, status.Missing{Node: t.node, Reason: err.Error()})
		}
	}
	return missing, nil
}

// askEach fills in what the driver says of volumes. A node that fails is not asked again.
func askEach(ctx context.Context, api reach.API, wanted []*Volume) (missing []status.Missing) {
	failed := map[string]bool{}
	for _, v := range wanted {
		if failed[v.Node] {
			continue
		}
		data, err := api.Volume(ctx, v.ID)
		switch {
		case err == nil && data.ID == v.ID:
			v.Data, v.Node = &data, data.Node
		case err != nil && !errors.Is(err, status.ErrNotFound):
			failed[v.Node] = true
			missing = append(missing, status.Missing{Node: v.Node, Reason: err.Error()})
		}
	}
	return missing
}
