package pool

import (
	"context"
	"fmt"
	"hash/fnv"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/btrfs"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/plain"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/projquota"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openBackend finds out what the pool's filesystem can do. Errors: ErrUnavailable when that is less than the options require.
func (p *Pool) openBackend(ctx context.Context) error {
	b, err := p.detect(ctx)
	if err != nil {
		return err
	}
	p.backend = b
	if p.opts.RequireQuota && !b.Enforces() {
		return fmt.Errorf("%w: quota is required, and its filesystem enforces none: mount XFS or ext4 with prjquota, or use btrfs",
			volume.ErrUnavailable)
	}
	return nil
}

func (p *Pool) detect(ctx context.Context) (backend.Backend, error) {
	hash := fnv.New32a()
	hash.Write([]byte(p.id))
	seed := uint64(hash.Sum32())
	subvolumes, projects := btrfs.Enforce, projquota.Enforce
	if p.opts.IgnoreQuota {
		subvolumes, projects = btrfs.Lift, projquota.Lift
	}
	b, ok, err := btrfs.Open(klog.FromContext(ctx), p.root.File, subvolumes, seed)
	if ok || err != nil {
		return b, err
	}
	q, ok, err := projquota.Open(p.root.File, projects, seed)
	if ok || err != nil {
		return q, err
	}
	return plain.Plain{}, nil
}

// Backend says what holds the pool's volumes to their sizes.
func (p *Pool) Backend() string { return p.backend.Name() }

// EnforcesSizes says whether a volume cannot grow beyond its size.
func (p *Pool) EnforcesSizes() bool { return p.backend.Enforces() }
