package copying

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// CheckTogether refuses sources that cannot be copied at one moment. Errors: ErrPrecondition.
func (c *Copier) CheckTogether(sources []Source) error {
	var byFiles []string
	for _, s := range sources {
		if c.MethodFor(s.Spec) == ByFiles {
			byFiles = append(byFiles, s.Name.String())
		}
	}
	if len(byFiles) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the filesystem of the pool (%s) cannot copy the directories of volumes %s "+
		"at one moment: use `backing: image` for them, or a pool on btrfs", volume.ErrPrecondition,
		c.Backend.Name(), strings.Join(byFiles, ", "))
}

// BeginTogether is Begin for the copies of a group. It takes one turn, and none if the filesystem
// makes all of them.
func (c *Copier) BeginTogether(
	ctx context.Context, sources []Source, progress *copytree.Progress,
) (*Copy, error) {
	method := ByFilesystem
	for _, s := range sources {
		if c.MethodFor(s.Spec) == ByImage {
			method = ByImage
		}
	}
	return c.Begin(ctx, method, progress)
}

// CloneTogether lets the filesystem make the data of several targets at one moment. It gets the
// indices of their sources. Errors: errors.ErrUnsupported if the filesystem refuses one of them.
type CloneTogether func(ctx context.Context, which []int) ([]backend.Clone, error)

// MakeTogether is Make for several snapshots: their data is as all sources are at one moment, or
// there is none. It does not copy files when the filesystem refuses a source. Target.Clone is not
// called. Errors: those of Make; ErrPrecondition when the filesystem refuses a source; ErrInUse
// when writers cannot be held, or would be held for too long.
func (c *Copy) MakeTogether(
	ctx context.Context, from []Source, to []Target, clone CloneTogether,
) ([]Made, error) {
	made := make([]Made, len(from))
	var images, others []int
	for i, s := range from {
		if s.Spec.IsImage() {
			images = append(images, i)
		} else {
			others = append(others, i)
		}
	}
	cloneOthers := func(ctx context.Context) error {
		clones, err := clone(ctx, others)
		for k, cloned := range clones {
			i := others[k]
			made[i] = Made{Method: ByFilesystem, Data: cloned.Data, QuotaID: cloned.QuotaID}
		}
		return c.explainRefusal(err)
	}
	var err error
	switch {
	case len(images) == 0:
		err = cloneOthers(ctx)
	case len(others) == 0:
		err = c.copyImages(ctx, from, to, images, made, nil)
	default:
		err = c.copyImages(ctx, from, to, images, made, cloneOthers)
	}
	if err != nil {
		for i := range made {
			if made[i].Data != nil {
				made[i].Data.Close()
				made[i].Data = nil
			}
		}
	}
	return made, err
}

func (c *Copy) explainRefusal(err error) error {
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return fmt.Errorf("%w: the filesystem cannot copy the directories of the group at one moment "+
		"(%w): use `backing: image` for them", volume.ErrPrecondition, err)
}

// copyImages makes those of the copies that are images, and meanwhile the others.
func (c *Copy) copyImages(
	ctx context.Context, from []Source, to []Target, which []int, made []Made,
	meanwhile func(context.Context) error,
) error {
	sources, dirs := make([]image.Source, len(which)), make([]openat.Dir, len(which))
	for k, i := range which {
		s := from[i]
		sources[k] = image.Source{Name: s.Name, Dir: s.Dir, Spec: s.Spec, Bytes: s.Bytes}
		dirs[k] = to[i].Dir
	}
	opts := copytree.Options{Progress: c.progress, Limiter: c.copier.Throttle.Limiter}
	copies, err := image.CopyTogether(ctx, sources, dirs, opts, meanwhile)
	if err != nil {
		return err
	}
	var errs []error
	for k, i := range which {
		var err error
		made[i], err = madeImage(copies[k], to[i])
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
