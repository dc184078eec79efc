package driver

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/preflight"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
)

// Inspect looks whether a driver with this configuration could serve the node: at the process,
// kubelet's directory and the places of the pools. A driver may run meanwhile. Nothing is opened as
// a pool, and nothing is changed. Notes are what the operator may want otherwise.
func Inspect(ctx context.Context, cfg config.Config) (notes []string, faults []error) {
	if err := mount.CheckKernel(); err != nil {
		faults = append(faults, err)
	}
	pools := newPoolSet(cfg, nodeserver.NewPublications())
	kubelet, err := pools.inspectKubelet(ctx)
	if err != nil { // what overlaps it cannot be said either
		return nil, append(faults, err)
	}
	faults = append(faults, kubelet.faults...)
	if kubelet.otherName != "" {
		notes = append(notes, fmt.Sprintf("kubelet's directory %s is called %s in its filesystem: if "+
			"kubelet uses that name, give it to --kubelet-dir", cfg.KubeletDir, kubelet.otherName))
	}
	for _, slot := range pools.slots {
		q := stuck.Question{Key: "inspect " + slot.config.Path, Path: slot.config.Path}
		note, err := stuck.Do(ctx, pools.asking, q, func() (string, error) {
			return pools.inspect(ctx, slot.config)
		}, nil)
		if err != nil {
			faults = append(faults, slot.named(err))
		}
		if note != "" {
			notes = append(notes, fmt.Sprintf("pool %s at %s: %s", slot.config.Name, slot.config.Path, note))
		}
	}
	return notes, faults
}

type kubeletFindings struct {
	faults    []error
	otherName string
}

// inspectKubelet looks at kubelet's directory. Errors: ErrUnresponsive.
func (s *poolSet) inspectKubelet(ctx context.Context) (kubeletFindings, error) {
	return stuck.Do(ctx, s.asking, s.askKubelet(), func() (kubeletFindings, error) {
		return kubeletFindings{preflight.Check(s.kubeletDir), preflight.OtherName(s.kubeletDir)}, nil
	}, nil)
}

// inspect looks at the directory of a pool or, if that does not exist, at the nearest one above it,
// in which the driver makes the pool's.
func (s *poolSet) inspect(ctx context.Context, c config.Pool) (note string, err error) {
	d, rest, err := mount.OpenNearest(c.Path)
	if err != nil {
		return "", err
	}
	defer d.Close()
	switch {
	case rest == "":
	case c.Optional:
		return "it is optional, and absent here", nil
	case c.RequireMountpoint:
		return "", &fs.PathError{Op: "open", Path: c.Path, Err: fs.ErrNotExist}
	default:
		note = "nothing is there yet: the driver makes it"
	}
	if err := s.checkApart(ctx, c, d, rest); err != nil {
		return "", err
	}
	if c.RequireMountpoint {
		if err := mount.CheckMountpoint(d); err != nil {
			return "", fmt.Errorf("requireMountpoint is set: %w: mount the pool's disk", err)
		}
	}
	if err := mount.CheckWritable(d, mount.Options{}); err != nil {
		return "", err
	}
	noExec, err := mount.IsNoExec(d)
	switch {
	case noExec && note != "":
		note += "; " + noExecNote
	case noExec:
		note = noExecNote
	}
	return note, err
}
