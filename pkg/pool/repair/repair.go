// Package repair makes the record of a volume again, from the volume's data, from what can be read
// of the old record, and from what the operator knows. It also charges files to their volume again.
package repair

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// NoFilesystem is the FSType of a raw block volume in Options.
const NoFilesystem volume.FSType = "none"

// Options are what the operator knows. What is zero is taken from the old record, if that is the
// volume's, or from the data.
type Options struct {
	// Name is the name of the volume, which is that of its PersistentVolume.
	Name string
	// Type, Backing, FSType and Allocation are as in the class. The FSType of a raw block volume is
	// NoFilesystem.
	Type       volume.Type
	Backing    string // directory or image
	FSType     volume.FSType
	Allocation volume.Allocation
	// CapacityBytes is the size of a volume without image. That of an image is its file's.
	CapacityBytes int64
	Owner         volume.Owner
	// Erase says that an image holds nothing that anybody needs: the next staging clears it and
	// makes a new filesystem.
	Erase bool
}

// Plan is a record that is not written yet. Whoever gets one closes it.
type Plan struct {
	// Volume is what the new record says.
	Volume volume.Volume
	// Found is what the data are, in words.
	Found string
	// Old and New are the texts of the records. Old is empty if there is none.
	Old, New []byte

	pool *Pool
	dir  openat.Dir
}

// IsNeeded says whether the new record differs from the old one.
func (p *Plan) IsNeeded() bool { return !bytes.Equal(p.Old, p.New) }

// Write replaces the record, durably.
func (p *Plan) Write() error {
	if err := layout.ReplaceVolumeRecord(p.dir, p.New); err != nil {
		return err
	}
	return p.dir.Sync()
}

// Close lets go of the volume. The pool stays the caller's.
func (p *Plan) Close() error { return p.dir.Close() }

// New looks at a volume, by its ID or by the name of its directory, and makes its record. Nothing
// is written. Errors: ErrNotFound; ErrInvalid when the operator has to say more, or says what
// cannot be; ErrCorrupt when the data cannot be used.
func New(ctx context.Context, p *Pool, handle string, opts Options) (_ *Plan, err error) {
	id, err := parseHandle(p.dir.ID, handle)
	if err != nil {
		return nil, err
	}
	plan := &Plan{pool: p}
	if plan.dir, err = p.openVolume(id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("volume %s: %w", id, err), plan.Close())
		}
	}()
	if plan.Old, err = readRecord(plan.dir); err != nil {
		return nil, err
	}
	d, err := openData(plan.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := plan.make(ctx, id, d, opts); err != nil {
		return nil, err
	}
	plan.Found = d.String()
	return plan, nil
}

func parseHandle(in volume.PoolID, handle string) (volume.ID, error) {
	if id, err := volume.ParseID(handle); err == nil && id.Pool() == in {
		return id, nil
	}
	if id, err := volume.IDFromDir(in, handle); err == nil {
		return id, nil
	}
	return volume.ID{}, fmt.Errorf(
		"%w: %q is neither the ID of a volume of the pool with the ID %s, nor a directory in its volumes/",
		volume.ErrInvalid, handle, in)
}

// readRecord reads the old record; nothing if there is none.
func readRecord(d openat.Dir) ([]byte, error) {
	old, err := layout.ReadRecord(d, record.VolumeFile,
		func(content []byte) ([]byte, error) { return bytes.Clone(content), nil })
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return old, err
}

// make fills in the volume and its record.
func (p *Plan) make(ctx context.Context, id volume.ID, d *data, opts Options) error {
	was := record.SalvageVolume(id.Pool(), p.Old)
	if was.ID != id { // of the record of another volume only the class is of use
		was = volume.Volume{Spec: was.Spec}
	}
	if was.Spec.Check() != nil {
		was.Spec = volume.Spec{}
	}
	v := was
	var err error
	if v.ID, v.Name, err = nameOf(id, was.Name, opts.Name); err != nil {
		return err
	}
	if err := d.inspect(ctx); err != nil {
		return err
	}
	if v.Spec, err = d.spec(was.Spec, opts); err != nil {
		return err
	}
	v.Owner = ownerOf(was.Owner, opts.Owner)
	if v.Created.IsZero() {
		v.Created = d.changed
	}
	if v.Spec.IsImage() {
		err = d.fillImage(&v, opts)
	} else {
		err = p.fillDirectory(ctx, &v, opts)
	}
	if err != nil {
		return err
	}
	p.Volume = v
	if p.New, err = record.EncodeVolume(v); err != nil {
		return err
	}
	_, err = record.DecodeVolume(id.Pool(), id.Dir(), p.New)
	return err
}

// fillDirectory fills in how much a volume without image may hold, and what it counts under.
func (p *Plan) fillDirectory(ctx context.Context, v *volume.Volume, opts Options) error {
	v.CapacityBytes = cmp.Or(opts.CapacityBytes, v.CapacityBytes)
	if v.CapacityBytes <= 0 {
		return fmt.Errorf("%w: its size is not known: give it with --capacity", volume.ErrInvalid)
	}
	v.FilesystemBytes, v.Formatting = 0, false
	found, err := p.pool.quotaID(ctx, p.dir)
	v.QuotaID = cmp.Or(found, v.QuotaID)
	return err
}

// nameOf is the name that belongs in the volume's directory: that of the old record, or the
// directory's own, or what the operator says.
func nameOf(id volume.ID, was volume.Name, asked string) (volume.ID, volume.Name, error) {
	text := cmp.Or(asked, was.String(), id.Dir())
	name, err := volume.ParseName(text)
	if err != nil {
		return volume.ID{}, volume.Name{}, err
	}
	if name.Dir() != id.Dir() {
		return volume.ID{}, volume.Name{}, fmt.Errorf(
			"%w: the name %q belongs in directory %s, and this one is %s: give the name of the PersistentVolume with --name",
			volume.ErrInvalid, text, name.Dir(), id.Dir())
	}
	return id, name, nil
}

// ownerOf is whose volume it is: what the operator says, else what the old record says.
func ownerOf(was, asked volume.Owner) volume.Owner {
	was.Namespace = cmp.Or(asked.Namespace, was.Namespace)
	was.Claim = cmp.Or(asked.Claim, was.Claim)
	was.PV = cmp.Or(asked.PV, was.PV)
	return was
}

// Summary says for people what becomes of the volume.
func (p *Plan) Summary() string {
	s := p.Volume.Spec
	words := []string{string(s.Type)}
	switch {
	case s.IsBlock():
		words = []string{"raw block volume"}
	case s.IsImage():
		words = append(words, "in an image with", string(s.FSType))
	}
	words = append(words, fmt.Sprintf("of %d bytes", p.Volume.CapacityBytes))
	switch {
	case p.Volume.Formatting:
		words = append(words, "whose content is ERASED by the next staging")
	case s.IsImage() && !s.IsBlock() && p.Volume.FilesystemBytes == 0:
		words = append(words, "whose filesystem is made by the next staging")
	}
	return strings.Join(words, " ")
}
