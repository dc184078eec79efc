package pool

import (
	"context"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// snapshotPrefix begins the entries of snapshots in tmp/ and trash/, which they share with volumes.
// No volume's begins so.
const snapshotPrefix = "s-"

// kind is one of the two things that a pool keeps, volumes or snapshots, with what differs between
// them. Creating, deleting, finding and listing are the same for both. V is the value of one.
type kind[V any] struct {
	pool *Pool
	noun string // in messages
	// dir is volumes/ or snapshots/, open.
	dir     openat.Dir
	catalog *catalog.Catalog
	// prefix begins an entry's name in tmp/ and trash/.
	prefix     string
	recordFile string
	encode     func(V) ([]byte, error)
	decode     func(pool volume.PoolID, dirName string, content []byte) (V, error)
	// pack and unpack are the value's entry in memory, and back.
	pack   func(V) *catalog.Entry
	unpack func(*catalog.Entry) V
	// idOf is the ID of a directory. Errors: ErrCorrupt.
	idOf func(dirName string) (catalog.ID, error)
	// adopt makes the filesystem agree with an entry that was found on disk, and the entry with what
	// the filesystem says, before the entry is in the catalog. It may be called concurrently for
	// entries of different names.
	adopt func(ctx context.Context, e *catalog.Entry)
	// syncsData: new data is durable only after an fsync of its own, where no ordered journal has
	// it. (A snapshot is durable with its directory: backend.Cloner.)
	syncsData  bool
	failpoints failpoints
}

// failpoints are the steps of create at which a test kills the driver.
type failpoints struct {
	reserved, directoryMade, dataMade, recordWritten, built, renamed, indexed failpoint.Point
}

func (p *Pool) newVolumes() *kind[volume.Volume] {
	return &kind[volume.Volume]{
		pool: p, noun: "volume", dir: p.layout.Volumes, recordFile: record.VolumeFile,
		catalog:   catalog.New(countUnenforced),
		encode:    record.EncodeVolume,
		decode:    record.DecodeVolume,
		pack:      p.packVolume,
		unpack:    func(e *catalog.Entry) volume.Volume { return e.Volume(p.id) },
		idOf:      func(dir string) (catalog.ID, error) { return volume.IDFromDir(p.id, dir) },
		adopt:     p.adoptVolume,
		syncsData: true,
		failpoints: failpoints{
			reserved:      failpoint.Point("create.reserved"),
			directoryMade: failpoint.Point("create.directory-made"),
			dataMade:      failpoint.Point("create.data-made"),
			recordWritten: failpoint.Point("create.record-written"),
			built:         failpoint.Point("create.built"),
			renamed:       failpoint.Point("create.renamed"),
			indexed:       failpoint.Point("create.indexed"),
		},
	}
}

func (p *Pool) packVolume(v volume.Volume) *catalog.Entry {
	e := catalog.NewVolume(v)
	e.IsEnforced = p.backendOf(v.Spec).Enforces()
	return e
}

// countUnenforced is the weight of an entry in a catalog whose sum counts the volumes that can grow
// beyond their sizes.
func countUnenforced(e *catalog.Entry) int64 {
	if e.Damaged() == nil && !e.IsEnforced {
		return 1
	}
	return 0
}

func (p *Pool) newSnapshots() *kind[volume.Snapshot] {
	return &kind[volume.Snapshot]{
		pool: p, noun: "snapshot", dir: p.layout.Snapshots, recordFile: record.SnapshotFile,
		prefix:  snapshotPrefix,
		catalog: catalog.New(func(e *catalog.Entry) int64 { return e.PromisedBytes }),
		encode:  record.EncodeSnapshot,
		decode:  record.DecodeSnapshot,
		pack:    catalog.NewSnapshot,
		unpack:  func(e *catalog.Entry) volume.Snapshot { return e.Snapshot(p.id) },
		idOf:    func(dir string) (catalog.ID, error) { return volume.SnapshotIDFromDir(p.id, dir) },
		adopt:   p.adoptSnapshot,
		failpoints: failpoints{
			reserved:      failpoint.Point("snapshot.reserved"),
			directoryMade: failpoint.Point("snapshot.directory-made"),
			dataMade:      failpoint.Point("snapshot.data-made"),
			recordWritten: failpoint.Point("snapshot.record-written"),
			built:         failpoint.Point("snapshot.built"),
			renamed:       failpoint.Point("snapshot.renamed"),
			indexed:       failpoint.Point("snapshot.indexed"),
		},
	}
}

// poolMember is the ID of a volume or of a snapshot.
type poolMember interface {
	catalog.ID
	Pool() volume.PoolID
}

// find returns the entry of an ID. Errors: ErrNotFound; ErrCorrupt, with the entry, when its record
// cannot be used.
func (k *kind[V]) find(id poolMember) (*catalog.Entry, error) {
	e, ok := k.catalog.Get(id.Dir())
	if !ok || id.Pool() != k.pool.id {
		return nil, fmt.Errorf("%w: %s %s is not in pool %s", volume.ErrNotFound, k.noun, id,
			k.pool.opts.Name)
	}
	return e, e.Damaged()
}

// existing returns the value of an ID, if there is one; check says whether it is what the request
// asks for. The caller has the exclusive lock. An earlier call may have failed before its fsync, so
// existing syncs again. Errors: ErrCorrupt, and those of check.
func (k *kind[V]) existing(id catalog.ID, check func(V) error) (v V, exists bool, err error) {
	e, exists := k.catalog.Get(id.Dir())
	if !exists {
		return v, false, nil
	}
	if err := e.Damaged(); err != nil {
		return v, true, err
	}
	found := k.unpack(e)
	if err := check(found); err != nil {
		return v, true, err
	}
	return found, true, k.syncRenames()
}

// page lists at most limit values in the order of their directories, after the given one.
func (k *kind[V]) page(afterDir string, limit int) []V {
	return k.unpackAll(k.catalog.After(afterDir, limit))
}

// pageOf lists a page, as page does, of the children of one parent.
func (k *kind[V]) pageOf(of, afterDir string, limit int) []V {
	return k.unpackAll(k.catalog.ChildrenAfter(of, afterDir, limit))
}

func (k *kind[V]) unpackAll(entries []*catalog.Entry) []V {
	values := make([]V, 0, len(entries))
	for _, e := range entries {
		values = append(values, k.unpack(e))
	}
	return values
}
