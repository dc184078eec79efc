// Package pool keeps volumes in a directory of one filesystem. The tree is the catalogue: a volume
// exists when its directory stands in volumes/, and every change of that is one rename(2), durable
// before it is acknowledged.
package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync/atomic"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/fsgroup"
	"github.com/csi-hostpath/csi-hostpath/pkg/job"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/groupsync"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Pool is one open pool. Its methods may be called concurrently; of two calls that change the same
// volume at the same time, the second fails with ErrBusy.
type Pool struct {
	opts Options
	id   volume.PoolID

	layout      *layout.Dir
	trash       *trash.Trash
	volumes     *kind[volume.Volume]
	snapshots   *kind[volume.Snapshot]
	accounts    ledger.Accounts
	commits     *groupsync.Group
	ordered     bool // backend.HasOrderedJournal
	backend     backend.Backend
	filesystem  Filesystem
	cloner      backend.Cloner
	jobs        copying.Jobs
	copier      copying.Copier
	calls       job.CallGate
	groups      *fsgroup.Groups
	groupLocks  catalog.Locks // of group snapshots
	halfDeleted halfDeleted
	ledger      ledger.Ledger
	notedOthers atomic.Int64 // layout.NoteOthers
	found       foundFaults
	audits      *audits // nil where nobody can charge files to others
}

// Open opens the pool at opts.Path, and makes the pool first where the directory is empty or
// absent. It finishes what a crash interrupted, and reads every record. A damaged volume does not
// fail the pool. When the context ends, the copies that are under way end too. The caller closes
// the pool. Errors: ErrUnavailable when the directory is not fit to be this pool (the text says
// why), ErrCorrupt when pool.json cannot be used.
func Open(ctx context.Context, opts Options) (*Pool, error) {
	p := &Pool{
		opts:    opts,
		commits: groupsync.New((*os.File).Sync),
	}
	if err := p.open(ctx); err != nil {
		return nil, p.wrap(err)
	}
	p.jobs = copying.StartJobs(ctx)
	p.groups = fsgroup.Start(ctx, &p.calls)
	p.audits = startAudits(ctx, p)
	p.trash.Start(context.WithoutCancel(ctx))
	return p, nil
}

// open opens the pool's directory, and finds out what is in it.
func (p *Pool) open(ctx context.Context) (err error) {
	p.layout, err = layout.Open(layout.Options{
		Path:              p.opts.Path,
		MustExist:         p.opts.MustExist,
		RequireMountpoint: p.opts.RequireMountpoint,
		WasOpen:           p.opts.WasOpen,
		Admit:             p.opts.Admit,
		Claim:             p.opts.Claim,
		CheckFilesystem:   func(d openat.Dir) error { return p.opts.checkFilesystem(ctx, d) },
	})
	if err != nil {
		return err
	}
	p.id = p.layout.ID
	if err := p.load(ctx); err != nil {
		return errors.Join(err, p.layout.Close())
	}
	return nil
}

// load finds out what the pool's filesystem can do, and what the pool has.
func (p *Pool) load(ctx context.Context) error {
	if err := p.openBackend(ctx); err != nil {
		return err
	}
	p.volumes, p.snapshots, p.trash = p.newVolumes(), p.newSnapshots(), p.newTrash()
	// A crash may have come between a rename and its fsync. From here on callers are told of these
	// entries, so they must be durable.
	if err := p.layout.Sync(); err != nil {
		return err
	}
	if err := p.scan(ctx); err != nil {
		return err
	}
	return p.measureOthers(ctx)
}

// wrap says in an error which pool it is about.
func (p *Pool) wrap(err error) error {
	return fmt.Errorf("%s: %w", p.nameAndPath(), err)
}

// nameAndPath is for errors that name the pool themselves: wrap would name it again.
func (p *Pool) nameAndPath() string {
	return fmt.Sprintf("pool %s at %s", p.opts.Name, p.opts.Path)
}

// IDAt is the ID of the pool at a path, which need not be open. Errors: os.ErrNotExist when there
// is no pool.
func IDAt(path string) (volume.PoolID, error) { return layout.IDAt(path) }

// CheckAtPath compares what is at the pool's path with what the pool has open. It costs three
// system calls. Errors: ErrUnavailable when the pool's directory is no longer there.
func (p *Pool) CheckAtPath() error {
	if err := p.layout.CheckAtPath(); err != nil {
		return p.wrap(err)
	}
	return nil
}

// Close ends the copies, changes of group and audits that are under way, stops the purges, waits
// for all of them, and lets another process have the pool. What is in the trash, and what the
// copies leave, is purged by the next Open.
func (p *Pool) Close() error {
	p.jobs.Close()
	p.groups.Close()
	p.audits.close()
	p.trash.Stop()
	return p.layout.Close()
}

// Unlock lets another driver open the pool while calls or purges of this one hang, and Close would
// wait for them. A thread that hangs can keep the process, with all its descriptors, from ending.
// The caller ends the process at once.
func (p *Pool) Unlock() error { return p.layout.Unlock() }

// ID is the part of the pool's UUID that stands in the IDs of its volumes.
func (p *Pool) ID() volume.PoolID { return p.id }

// UUID is what tells the pool from all others, wherever its disk is.
func (p *Pool) UUID() string { return p.layout.UUID }

// Name is what the configuration calls the pool.
func (p *Pool) Name() string { return p.opts.Name }

// AllowMultiNode says whether the operator lets multi-node access modes mean "the pods of one
// node".
func (p *Pool) AllowMultiNode() bool { return p.opts.AllowMultiNode }

// List returns at most limit volumes in the order of their IDs. The first one is the one whose
// directory follows afterDir. The cost grows with the page, not with the pool.
func (p *Pool) List(afterDir string, limit int) []volume.Volume {
	return p.volumes.page(afterDir, limit)
}

// Inline lists the volumes that live with a pod.
func (p *Pool) Inline() []volume.Volume {
	return slices.DeleteFunc(p.volumes.unpackAll(p.volumes.catalog.AllChildren()),
		volume.Volume.IsGitContent)
}

// GitContents lists the volumes with content of git. Its cost is that of the list.
func (p *Pool) GitContents() []volume.Volume {
	return p.volumes.unpackAll(
		p.volumes.catalog.ChildrenAfter(catalog.GitParentID, "", math.MaxInt))
}
