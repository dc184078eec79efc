package copying

import (
	"context"
	"errors"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
)

// copyImage makes an image that begins with a copy of the source's image. The filesystem in it
// keeps the source's size.
func (c *Copy) copyImage(ctx context.Context, from Source, to Target) (Made, error) {
	made := image.New(to.Allocation)
	source := image.Source{Name: from.Name, Dir: from.Dir, Spec: from.Spec, Bytes: from.Bytes}
	opts := copytree.Options{Progress: c.progress, Limiter: c.copier.Throttle.Limiter}
	data, err := made.MakeFrom(ctx, to.Dir, source, to.Bytes, opts)
	if err != nil {
		return Made{}, err
	}
	occupied, err := made.Allocated(data, 0)
	if err != nil {
		return Made{}, errors.Join(err, data.Close())
	}
	return Made{Data: data, OccupiedBytes: min(occupied, to.Bytes)}, nil
}
