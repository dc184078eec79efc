package pool

import (
	"cmp"
	"context"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/detect"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Filesystem says what kind of filesystem a pool is on.
type Filesystem struct {
	// Backend is what enforces sizes, for logs and metrics.
	Backend string
	// EnforcesSizes says whether a volume cannot grow beyond its size.
	EnforcesSizes bool
	// LimitsInodes says whether the number of a volume's files can be limited.
	LimitsInodes bool
	// Volatile is the filesystem's kind if its data is lost at a reboot, or with the container that
	// the filesystem belongs to; else "".
	Volatile string
	// NoExec says that it is mounted noexec, and so are the volumes in it that are no images.
	NoExec bool
}

// Filesystem says what kind of filesystem the pool was opened on.
func (p *Pool) Filesystem() Filesystem { return p.filesystem }

// openBackend finds out what the pool's filesystem can do. Errors: ErrUnavailable when that is less
// than the options require.
func (p *Pool) openBackend(ctx context.Context) (err error) {
	root := p.layout.Root
	if p.backend, err = detect.Backend(ctx, root, p.opts.quotas()); err != nil {
		return err
	}
	if p.ordered, err = backend.HasOrderedJournal(root.File); err != nil {
		return err
	}
	p.cloner = backend.ClonerOf(p.backend)
	maxCopies := cmp.Or(p.opts.MaxCopies, DefaultMaxCopies)
	p.copier = copying.Copier{
		Backend:  p.backend,
		Throttle: copying.NewThrottle(maxCopies, p.opts.CopyBytesPerSecond),
		Yielder:  &p.calls,
	}
	p.filesystem = Filesystem{
		Backend:       p.backend.Name(),
		EnforcesSizes: p.backend.Enforces(),
		LimitsInodes:  p.backend.LimitsInodes(),
	}
	if p.filesystem.Volatile, err = detect.Volatile(root); err != nil {
		return err
	}
	p.filesystem.NoExec, err = mount.IsNoExec(root.File)
	return err
}

// backendOf returns the backend that enforces the size of such a volume: the pool's filesystem, or
// the image.
func (p *Pool) backendOf(s volume.Spec) backend.Backend {
	if s.IsImage() {
		return image.New(s.Allocation)
	}
	return p.backend
}
