package pool

import (
	"fmt"
	"hash/fnv"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend/plain"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/projquota"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openBackend finds out what the pool's filesystem can do. Errors: ErrUnavailable when that is less than the options require.
func (p *Pool) openBackend() error {
	p.backend = plain.Plain{}
	if !p.opts.IgnoreQuota {
		seed := fnv.New32a()
		seed.Write([]byte(p.id))
		projects, ok, err := projquota.Open(p.root.File, seed.Sum32())
		if err != nil {
			return err
		}
		if ok {
			p.backend = projects
		}
	}
	if p.opts.RequireQuota && !p.backend.Enforces() {
		return fmt.Errorf("%w: quota is required, and its filesystem enforces none: mount XFS or ext4 with prjquota", volume.ErrUnavailable)
	}
	return nil
}

// Backend says what holds the pool's volumes to their sizes.
func (p *Pool) Backend() string { return p.backend.Name() }

// EnforcesSizes says whether a volume cannot grow beyond its size.
func (p *Pool) EnforcesSizes() bool { return p.backend.Enforces() }
