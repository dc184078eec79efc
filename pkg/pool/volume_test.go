package pool

import (
	"context"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openData looks a volume up and opens its data.
func openData(p *Pool, id volume.ID) (*os.File, error) {
	v, err := p.Volume(id)
	if err != nil {
		return nil, err
	}
	return v.Data()
}

// openImage looks a volume up and opens its image.
func openImage(p *Pool, id volume.ID) (*os.File, error) {
	v, err := p.Volume(id)
	if err != nil {
		return nil, err
	}
	return v.OpenImage()
}

// setFilesystemBytes looks a volume up and records the size of its filesystem.
func setFilesystemBytes(p *Pool, id volume.ID, bytes int64) error {
	v, err := p.Volume(id)
	if err != nil {
		return err
	}
	return v.SetFilesystemBytes(bytes)
}

// checkVolumeDetached looks a volume up and checks that its image is on no device.
func checkVolumeDetached(p *Pool, id volume.ID) error {
	v, err := p.Volume(id)
	if err != nil {
		return err
	}
	return v.CheckDetached()
}

// beginFilesystem looks a volume up and makes its image ready for a filesystem.
func beginFilesystem(ctx context.Context, p *Pool, id volume.ID, image *os.File) error {
	v, err := p.Volume(id)
	if err != nil {
		return err
	}
	return v.BeginFilesystem(ctx, image)
}
