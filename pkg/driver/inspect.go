package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/preflight"
)

// Inspect looks whether a driver with this configuration could serve the node: at the process,
// kubelet's directory and the places of the pools. A driver may run meanwhile. Nothing is opened as
// a pool, and nothing is changed. Notes are what the operator may want otherwise.
func Inspect(ctx context.Context, cfg config.Config) (notes []string, faults []error) {
	if err := mount.CheckKernel(); err != nil {
		faults = append(faults, err)
	}
	faults = append(faults, preflight.Check(cfg.KubeletDir)...)
	if name := preflight.OtherName(cfg.KubeletDir); name != "" {
		notes = append(notes, fmt.Sprintf("kubelet's directory %s is called %s in its filesystem: if "+
			"kubelet uses that name, give it to --kubelet-dir", cfg.KubeletDir, name))
	}
	pools := newPoolSet(cfg, nodeserver.NewPublications())
	for _, slot := range pools.slots {
		note, err := pools.inspect(ctx, slot.config)
		if err != nil {
			faults = append(faults, slot.named(err))
		}
		if note != "" {
			notes = append(notes, fmt.Sprintf("pool %s at %s: %s", slot.config.Name, slot.config.Path, note))
		}
	}
	return notes, faults
}

// inspect looks at the directory of a pool.
func (s *poolSet) inspect(ctx context.Context, c config.Pool) (note string, err error) {
	d, err := os.OpenFile(c.Path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case !errors.Is(err, fs.ErrNotExist):
	case c.Optional:
		return "it is optional, and absent here", nil
	case !c.RequireMountpoint:
		return "nothing is there yet: the driver makes it", nil
	}
	if err != nil {
		return "", err
	}
	defer d.Close()
	if err := s.checkApart(ctx, c, d, ""); err != nil {
		return "", err
	}
	if c.RequireMountpoint {
		if err := mount.CheckMountpoint(d); err != nil {
			return "", fmt.Errorf("requireMountpoint is set: %w: mount the pool's disk", err)
		}
	}
	noExec, err := mount.IsNoExec(d)
	if noExec {
		note = noExecNote
	}
	return note, err
}
