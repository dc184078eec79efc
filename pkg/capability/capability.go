// Package capability reads what a CSI caller wants to do with a volume, its VolumeCapability, into
// a typed value.
package capability

import (
	"cmp"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Access is how a volume is to be used at one target.
type Access struct {
	// Exclusive: no second target while this one is published (SINGLE_NODE_SINGLE_WRITER,
	// Kubernetes' ReadWriteOncePod).
	Exclusive bool
	// MultiNode: the mode speaks of several nodes, which only some pools accept.
	MultiNode bool
	// Type is what is to be seen.
	Type volume.AccessType
	// Group is to be able to write; it means nothing to a path of the host.
	Group volume.Group
	// Mount has the attributes of the bind mount, read-only included.
	Mount mount.Options
}

// modes says what each access mode means for a volume that one node has. SINGLE_NODE_WRITER is what
// callers send that do not know SINGLE_NODE_MULTI_WRITER, and to them it means "of one node" (CSI
// spec, SINGLE_NODE_MULTI_WRITER capability).
var modes = map[csi.VolumeCapability_AccessMode_Mode]struct{ exclusive, readOnly, multiNode bool }{
	csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        {},
	csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  {},
	csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: {exclusive: true},
	csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   {readOnly: true},
	csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    {readOnly: true, multiNode: true},
	csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:  {multiNode: true},
	csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   {multiNode: true},
}

// Parse reads one capability. Errors: ErrInvalid, also for what this driver does not offer.
func Parse(c *csi.VolumeCapability) (Access, error) {
	if c == nil {
		return Access{}, fmt.Errorf("%w: volume capability is missing", volume.ErrInvalid)
	}
	mode, ok := modes[c.GetAccessMode().GetMode()]
	if !ok {
		return Access{}, fmt.Errorf("%w: access mode %s is not known", volume.ErrInvalid,
			c.GetAccessMode().GetMode())
	}
	a := Access{Exclusive: mode.exclusive, MultiNode: mode.multiNode}
	m := c.GetMount()
	if c.GetBlock() != nil {
		a.Type.Block = true
		m = &csi.VolumeCapability_MountVolume{} // its node is mounted with what is always on
	}
	if m == nil {
		return Access{}, fmt.Errorf("%w: volume capability has no access type: want mount or block",
			volume.ErrInvalid)
	}
	if err := a.parseMount(m); err != nil {
		return Access{}, err
	}
	if mode.readOnly {
		a.Mount = a.Mount.AsReadOnly()
	}
	return a, nil
}

func (a *Access) parseMount(m *csi.VolumeCapability_MountVolume) (err error) {
	if a.Type.FSType, err = volume.ParseFSType(m.GetFsType()); err != nil {
		return err
	}
	if a.Group, err = volume.ParseGroup(m.GetVolumeMountGroup()); err != nil {
		return err
	}
	a.Mount, err = mount.ParseOptions(m.GetMountFlags())
	return err
}

// Type is what all of the capabilities want to see. Errors: ErrInvalid when no volume could be all
// of that.
func Type(all []Access) (volume.AccessType, error) {
	var t volume.AccessType
	for i, a := range all {
		if i > 0 &&
			(a.Type.Block != t.Block || a.Type.FSType != "" && t.FSType != "" && a.Type.FSType != t.FSType) {
			return t, fmt.Errorf("%w: capability %d wants %s, one before it %s: no volume is both",
				volume.ErrInvalid, i, a.Type, t)
		}
		t.Block, t.FSType = a.Type.Block, cmp.Or(t.FSType, a.Type.FSType)
	}
	return t, nil
}

// ParseAll reads the capabilities a volume must have all of. Errors: ErrInvalid, also when there is
// none.
func ParseAll(caps []*csi.VolumeCapability) ([]Access, error) {
	if len(caps) == 0 {
		return nil, fmt.Errorf("%w: volume capabilities are missing", volume.ErrInvalid)
	}
	all := make([]Access, 0, len(caps))
	for i, c := range caps {
		a, err := Parse(c)
		if err != nil {
			return nil, fmt.Errorf("capability %d: %w", i, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// policy is what a pool's operator accepts.
type policy interface {
	AllowMultiNode() bool
}

// CheckNodes refuses multi-node modes unless the volume's pool accepts them. Errors: ErrInvalid.
func CheckNodes(pool policy, all ...Access) error {
	for _, a := range all {
		if a.MultiNode && !pool.AllowMultiNode() {
			return fmt.Errorf(
				"%w: access mode is of several nodes, and a volume here is on one: use ReadWriteOnce, "+
					"or let the operator set allowMultiNode on the pool (its pods then share one node)",
				volume.ErrInvalid,
			)
		}
	}
	return nil
}
