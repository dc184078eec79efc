package nodeserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// CheckUnused refuses a volume that a pod can see, or that is staged; the data is the volume's,
// open. It detaches the devices of a raw block volume that an unclean stop has left. Errors:
// ErrInUse, with who holds the volume.
func (s *Server) CheckUnused(ctx context.Context, id volume.ID, data *os.File) error {
	err := image.CheckDetached(data)
	if errors.Is(err, volume.ErrInUse) {
		err = s.detachUnused(ctx, id, data)
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	if v, ok := s.gitContent(id); ok {
		return fmt.Errorf("%w: volume %s has content of %s: it is deleted when no pod has shown it for a "+
			"while", volume.ErrInUse, id, v.Owner.Git)
	}
	return s.Publications.CheckUnused(id, data)
}

// detachUnused is the way that is taken only if the volume's image is on a device. It looks at all
// loop devices and processes of the node. Errors: ErrInUse.
func (s *Server) detachUnused(ctx context.Context, id volume.ID, data *os.File) error {
	what := "the loop devices of " + id.String()
	q := stuck.Question{Key: what, Path: what}
	_, err := stuck.Do(ctx, s.askingPools, q, func() (struct{}, error) {
		// The caller closes the data if the search takes too long.
		own, err := openat.Reopen(data, unix.O_PATH)
		if err != nil {
			return struct{}{}, err
		}
		defer own.Close()
		return struct{}{}, s.detachOrExplain(ctx, id, own)
	}, nil)
	return err
}

func (s *Server) detachOrExplain(ctx context.Context, id volume.ID, data *os.File) error {
	if v, ok := s.blockVolume(id); ok {
		for _, at := range s.Publications.Targets(id.String()) {
			if len(image.NodesAt(at)) > 0 {
				return fmt.Errorf("%w: it is published at %s: delete the pod first", volume.ErrInUse, at)
			}
		}
		if err := errors.Join(s.releaseDevices(ctx, v), image.DetachStacked(data)); err != nil {
			return err
		}
	}
	return image.DescribeHolders(data, s.procDir())
}

// procDir is the proc filesystem with most processes.
func (s *Server) procDir() string {
	const own = "/proc"
	if _, err := os.Readlink(filepath.Join(s.Proc, "self")); s.Proc == "" || err != nil {
		return own
	}
	return s.Proc
}
