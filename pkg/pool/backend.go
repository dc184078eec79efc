package pool

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/btrfs"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/plain"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/projquota"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openBackend finds out what the pool's filesystem can do. Errors: ErrUnavailable when that is less
// than the options require.
func (p *Pool) openBackend(ctx context.Context) (err error) {
	if p.backend, err = p.detect(ctx, p.root.File); err == nil {
		p.cloner = clonerOf(p.backend)
	}
	return err
}

// checkQuota refuses a filesystem that does not do what the options require, before anything is
// made on it. Errors: ErrUnavailable.
func (p *Pool) checkQuota(ctx context.Context, there *os.File) error {
	if !p.opts.RequireQuota {
		return nil
	}
	_, err := p.detect(ctx, there)
	return err
}

func (p *Pool) detect(ctx context.Context, root *os.File) (backend.Backend, error) {
	b, err := p.detectAny(ctx, root)
	if err == nil && p.opts.RequireQuota && !b.Enforces() {
		return nil, volume.Because(volume.ReasonNoQuota, fmt.Errorf(
			"%w: quota is required, and its filesystem enforces none: mount XFS or ext4 with prjquota, or use btrfs",
			volume.ErrUnavailable,
		))
	}
	return b, err
}

func (p *Pool) detectAny(ctx context.Context, root *os.File) (backend.Backend, error) {
	hash := fnv.New32a()
	hash.Write([]byte(p.id))
	seed := uint64(hash.Sum32())
	subvolumes, projects := btrfs.Enforce, projquota.Enforce
	if p.opts.IgnoreQuota {
		subvolumes, projects = btrfs.Lift, projquota.Lift
	}
	b, ok, err := btrfs.Open(klog.FromContext(ctx), root, subvolumes, seed)
	if ok || err != nil {
		return b, err
	}
	q, ok, err := projquota.Open(root, projects, seed)
	if ok || err != nil {
		return q, err
	}
	return plain.Plain{}, nil
}

// Volatile names the pool's filesystem if what is in it is lost with a reboot, or with the
// container that it belongs to; else "".
func (p *Pool) Volatile() (string, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(p.root.FD(), &st); err != nil {
		return "", fmt.Errorf("pool %s at %s: statfs: %w", p.opts.Name, p.opts.Path, err)
	}
	return map[int64]string{
		unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	}[st.Type], nil
}

// backendOf returns the backend that enforces the size of such a volume: the pool's filesystem, or
// the image.
func (p *Pool) backendOf(s volume.Spec) backend.Backend {
	if s.IsImage() {
		return image.New(s.Allocation)
	}
	return p.backend
}

// Backend says what holds the pool's volumes to their sizes.
func (p *Pool) Backend() string { return p.backend.Name() }

// EnforcesSizes says whether a volume cannot grow beyond its size.
func (p *Pool) EnforcesSizes() bool { return p.backend.Enforces() }
