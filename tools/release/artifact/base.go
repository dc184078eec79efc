package artifact

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
)

// Base is what images have below the driver.
type Base struct {
	Description debian.Description
	Lock        debian.Lock
	Cache       string // folder of downloaded packages
}

// NewBase reads what deploy/image says.
func (s Source) NewBase(cache string) (Base, error) {
	description, err := debian.ReadDescription(s.Path("deploy/image/base.yaml"))
	if err != nil {
		return Base{}, err
	}
	lock, err := debian.ReadLock(s.Path("deploy/image/base.lock.json"))
	return Base{Description: description, Lock: lock, Cache: cache}, err
}

// OrNewest returns the Base, or one with the newest packages for an architecture where a locked
// package is not to be had. It is for builds that need not be the same again, never for a release.
func (b Base) OrNewest(
	ctx context.Context, architecture string, warn func(format string, args ...any),
) (Base, error) {
	return b.orNewest(ctx, architecture, warn, repository{debian.Lock.Fetch, debian.Update})
}

// repository is how packages are downloaded and the newest ones found.
type repository struct {
	fetch  func(debian.Lock, context.Context, string, debian.Package) (string, error)
	update func(context.Context, debian.Description, time.Time) (debian.Lock, error)
}

func (b Base) orNewest(
	ctx context.Context, architecture string, warn func(format string, args ...any), from repository,
) (Base, error) {
	missing := b.fetch(ctx, architecture, from)
	if !errors.Is(missing, debian.ErrUnavailable) {
		return b, missing
	}
	warn("warning: the image gets the newest packages of deploy/image/base.yaml: %v", missing)
	newest := b.Description
	newest.Architectures = []string{architecture}
	lock, err := from.update(ctx, newest, time.Now())
	if err != nil {
		return b, fmt.Errorf("%w; the newest packages: %w", missing, err)
	}
	b.Lock = lock
	return b, nil
}

// fetch downloads the packages of an architecture, up to the first that is not to be had.
func (b Base) fetch(ctx context.Context, architecture string, from repository) error {
	for _, pkg := range b.Lock.Of(architecture) {
		if _, err := from.fetch(b.Lock, ctx, b.Cache, pkg); err != nil {
			return err
		}
	}
	return nil
}
