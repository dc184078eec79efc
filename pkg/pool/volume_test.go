package pool

import (
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openData looks a volume up and opens its data.
func openData(p *Pool, id volume.ID) (*os.File, error) {
	v, err := p.Get(id)
	if err != nil {
		return nil, err
	}
	return v.Data()
}

// openImage looks a volume up and opens its image.
func openImage(p *Pool, id volume.ID) (*os.File, error) {
	v, err := p.Get(id)
	if err != nil {
		return nil, err
	}
	return v.OpenImage()
}

// setFilesystemBytes looks a volume up and records the size of its filesystem.
func setFilesystemBytes(p *Pool, id volume.ID, bytes int64) error {
	v, err := p.Get(id)
	if err != nil {
		return err
	}
	l, err := v.LockUncopied()
	if err != nil {
		return err
	}
	defer l.Unlock()
	changed := l.Volume.Volume
	changed.FilesystemBytes = bytes
	return l.ReplaceRecord(changed)
}
