// Package pool keeps volumes in a directory of one filesystem. The tree is the catalogue: a volume
// exists when its directory stands in volumes/, and every change of that is one rename(2), durable
// before it is acknowledged.
package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copyjob"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/groupsync"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Pool is one open pool. Its methods may be called concurrently; of two calls that change the same
// volume at the same time, the second fails with ErrBusy.
type Pool struct {
	opts Options
	id   volume.PoolID

	root, tmp      openat.Dir
	trash          *trash.Trash
	volumes        *kind[volume.Volume]
	snapshots      *kind[volume.Snapshot]
	charges        charges
	snapshotBound  snapshotBound
	commits        *groupsync.Group
	ordered        bool // backend.HasOrderedJournal
	location       mount.Location
	place          place
	backend        backend.Backend
	filesystem     Filesystem
	cloner         backend.Cloner
	jobs           *copyjob.Jobs
	copier         copying.Copier
	calls          copyjob.CallGate
	ledger         ledger.Ledger
	foreign        foreignUse
	growthFailures growthFailures
}

// Open opens the pool at opts.Path, and makes the pool first where the directory is empty or
// absent. It finishes what a crash interrupted, and reads every record. A damaged volume does not
// fail the pool. When the context ends, the copies that are under way end too. The caller closes
// the pool. Errors: ErrUnavailable when the directory is not fit to be this pool (the text says
// why), ErrCorrupt when its marker cannot be used.
func Open(ctx context.Context, opts Options) (_ *Pool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("pool %s at %s: %w", opts.Name, opts.Path, err)
		}
	}()
	p := &Pool{
		opts:    opts,
		commits: groupsync.New((*os.File).Sync),
	}
	p.volumes, p.snapshots, p.trash = p.newVolumes(), p.newSnapshots(), p.newTrash()
	defer func() {
		if err != nil {
			err = errors.Join(err, p.closeFiles())
		}
	}()
	if err := p.openFiles(ctx); err != nil {
		return nil, err
	}
	if err := p.scan(ctx); err != nil {
		return nil, err
	}
	if err := p.measureForeign(); err != nil {
		return nil, err
	}
	p.jobs = copyjob.Start(ctx)
	p.trash.Start(context.WithoutCancel(ctx))
	return p, nil
}

// openFiles opens the pool's directories, and finds out what their filesystem can do.
func (p *Pool) openFiles(ctx context.Context) (err error) {
	if err := p.openRoot(ctx); err != nil {
		return err
	}
	if err := p.openLayout(); err != nil {
		return err
	}
	if p.location, err = mount.Locate(p.root.File); err != nil {
		return err
	}
	if p.place, err = placeOf(p.root.File); err != nil {
		return err
	}
	if err := p.openBackend(ctx); err != nil {
		return err
	}
	if p.ordered, err = backend.HasOrderedJournal(p.root.File); err != nil {
		return err
	}
	p.trash.Tmp, p.trash.Location = p.tmp, p.location
	p.trash.Backend, p.trash.IsOrdered = p.backend, p.ordered
	// A crash may have come between a rename and its fsync. From here on callers are told of these
	// entries, so they must be durable.
	return errors.Join(
		p.volumes.dir.Sync(),
		p.snapshots.dir.Sync(),
		p.trash.Dir.Sync(),
		p.tmp.Sync(),
		p.root.Sync(),
	)
}

// openRoot opens the pool's directory, after making it where the options let it. Errors:
// ErrUnavailable, and os.ErrNotExist where nothing is and nothing may be made.
func (p *Pool) openRoot(ctx context.Context) error {
	there, rest, err := mount.OpenNearest(p.opts.Path)
	if err != nil {
		return fmt.Errorf("%w: %w", volume.ErrUnavailable, err)
	}
	p.root = openat.Dir{File: there} // closed with the pool, also after an error
	if rest != "" && (p.opts.MustExist || p.opts.RequireMountpoint || p.opts.WasOpen) {
		return fmt.Errorf(
			"%w: nothing is at %s where the driver runs: mount the pool's disk; in a container, is the directory above it mounted "+
				"(the chart's hostDirectories)? %w",
			volume.ErrUnavailable,
			p.opts.Path,
			os.ErrNotExist,
		)
	}
	if err := p.checkPlace(ctx, rest); err != nil {
		return err
	}
	if rest != "" {
		if err := p.makeRoot(); err != nil {
			return err
		}
		// Again, for the opened directory: the path may have changed since.
		if err := p.checkPlace(ctx, ""); err != nil {
			return err
		}
	}
	return nil
}

// checkPlace refuses a place where the pool must not be, or whose filesystem does not do what the
// options require, before anything is made or changed there. The pool is to be at the rest below
// its root. Errors: ErrUnavailable.
func (p *Pool) checkPlace(ctx context.Context, rest string) error {
	if p.opts.Admit != nil {
		if err := p.opts.Admit(p.root.File, rest); err != nil {
			return err
		}
	}
	if err := p.checkMountpoint(); err != nil {
		return err
	}
	return p.checkQuota(ctx)
}

// makeRoot makes the pool's directory, with its parents, and opens it in place of the nearest one.
func (p *Pool) makeRoot() error {
	if err := os.MkdirAll(filepath.Dir(p.opts.Path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(p.opts.Path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	f, err := os.OpenFile(p.opts.Path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	nearest := p.root
	p.root = openat.Dir{File: f}
	return errors.Join(nearest.Close(), syncPath(filepath.Dir(p.opts.Path)))
}

// checkMountpoint refuses a directory, by its descriptor, that must be where a filesystem is
// mounted and is not. Errors: ErrUnavailable.
func (p *Pool) checkMountpoint() error {
	if !p.opts.RequireMountpoint {
		return nil
	}
	ok, err := mount.IsFilesystemRoot(p.root.File)
	if err != nil {
		return fmt.Errorf("%w: %w", volume.ErrUnavailable, err)
	}
	if !ok {
		return volume.Because(volume.ReasonNotMounted, fmt.Errorf(
			"%w: no filesystem is mounted there, and requireMountpoint is set: mount the pool's disk",
			volume.ErrUnavailable,
		))
	}
	return nil
}

// openLayout checks what the directory is, locks it, and makes it a pool if it is not one yet.
func (p *Pool) openLayout() error {
	m, err := readMarker(p.root)
	isNew := errors.Is(err, os.ErrNotExist)
	if err != nil && !isNew {
		return err
	}
	if isNew {
		if err := errors.Join(p.checkMayBeMade(), checkUnused(p.root)); err != nil {
			return err
		}
	}
	if err := lockPool(p.root); err != nil {
		return err
	}
	if !isNew { // before anything is changed that might be another pool's
		if err := p.identify(m); err != nil {
			return err
		}
	}
	if isNew {
		if m, err = initialize(p.root); err != nil {
			return err
		}
	}
	if err := p.root.Chmod(0o700); err != nil {
		return err
	}
	if err := p.identify(m); err != nil {
		return err
	}
	return errors.Join(openInto(&p.volumes.dir, p.root, volumesDir),
		openInto(&p.snapshots.dir, p.root, snapshotsDir), openInto(&p.tmp, p.root, tmpDir),
		openInto(&p.trash.Dir, p.root, trashDir))
}

// identify reads the pool's ID and asks whether it may have it.
func (p *Pool) identify(m record.Pool) (err error) {
	if p.id, err = m.ID(); err != nil || p.opts.Claim == nil {
		return err
	}
	return p.opts.Claim(p.id)
}

// IDAt is the ID of the pool at a path, which need not be open. Errors: os.ErrNotExist when there
// is no pool.
func IDAt(path string) (volume.PoolID, error) {
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	m, err := readMarker(openat.Dir{File: f})
	if err != nil {
		return "", err
	}
	return m.ID()
}

func openInto(d *openat.Dir, root openat.Dir, name string) (err error) {
	*d, err = root.OpenDir(name)
	return err
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close ends the copies under way, stops the purges, waits for both, and lets another process have
// the pool. What is in the trash, and what the copies leave, is purged by the next Open.
func (p *Pool) Close() error {
	p.jobs.Close()
	p.trash.Stop()
	return p.closeFiles()
}

func (p *Pool) closeFiles() error {
	var errs []error
	for _, f := range []*os.File{
		p.volumes.dir.File, p.snapshots.dir.File, p.tmp.File, p.trash.Dir.File, p.root.File,
	} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// ID is the part of the pool's UUID that stands in the IDs of its volumes.
func (p *Pool) ID() volume.PoolID { return p.id }

// Name is what the configuration calls the pool.
func (p *Pool) Name() string { return p.opts.Name }

// Get returns one volume. The owner is set only for an inline volume; for other volumes only the
// record has the owner. Errors: ErrNotFound; ErrCorrupt when the volume is there and its record
// cannot be used.
func (p *Pool) Get(id volume.ID) (volume.Volume, error) {
	e, err := p.find(id)
	if e == nil {
		return volume.Volume{}, err
	}
	return p.volumeOf(e), err
}

// find returns the entry of a volume, also of a damaged one. Errors: those of Get.
func (p *Pool) find(id volume.ID) (*entry, error) {
	e, ok := p.volumes.catalog.Get(id.Dir())
	if !ok || id.Pool() != p.id {
		return nil, fmt.Errorf("%w: volume %s is not in pool %s", volume.ErrNotFound, id, p.opts.Name)
	}
	return e, e.Value.damaged()
}

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
	return p.volumes.unpackAll(p.volumes.catalog.Belonging())
}

// VolumeAt says which volume's data a mount shows, if one of this pool.
func (p *Pool) VolumeAt(m mount.Mount) (volume.ID, bool) {
	rest, ok := p.location.Below(m)
	if !ok {
		return p.imageAt(m)
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 || parts[0] != volumesDir || !isData(parts[2:]) {
		return volume.ID{}, false
	}
	id, err := volume.IDFromDir(p.id, parts[1])
	return id, err == nil
}

// isData says whether a path in a volume's directory is that of the volume's data, as
// backend.OpenData finds the data. Paths below the data belong to pods.
func isData(parts []string) bool {
	return slices.Contains(backend.DataPaths(), strings.Join(parts, "/"))
}
