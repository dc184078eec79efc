package copying

import (
	"context"
	"errors"
	"os"

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
	return madeImage(data, to)
}

// madeImage measures the copy of an image. It closes the copy after an error.
func madeImage(data *os.File, to Target) (Made, error) {
	occupied, err := image.New(to.Allocation).Allocated(data, 0)
	if err != nil {
		return Made{}, errors.Join(err, data.Close())
	}
	return Made{Method: ByImage, Data: data, OccupiedBytes: min(occupied, to.Bytes)}, nil
}
