package volume

import (
	"cmp"
	"fmt"
)

// EnforcedBacking is a directory in a pool that enforces sizes, and an image elsewhere. Only
// requests have it: the pool decides when the volume is made (DecideFor), and the record has what
// was decided. So a volume stays what it is, whatever its pool enforces later.
const EnforcedBacking Backing = "enforced"

// enforcedSpec is that of a class of backing: enforced. A raw block volume is an image in every
// pool. Errors: ErrInvalid.
func (p *Parameters) enforcedSpec(t AccessType) (Spec, error) {
	spec := p.Spec
	spec.Backing, spec.EnforcedSize = EnforcedBacking, true
	spec.Allocation = cmp.Or(p.allocation, Sparse)
	switch {
	case t.FSType != "":
		return Spec{}, fmt.Errorf(
			"%w: parameter %q is %s, which is a directory in some pools; requested: %s: use %s",
			ErrInvalid, ParamBacking, backingEnforced, t, backingImage)
	case t.Block:
		return p.blockSpec()
	default:
		return spec, nil
	}
}

// Enforcer is a pool, or its filesystem, that says whether it keeps directories to their sizes.
type Enforcer interface{ Enforces() bool }

// DecideFor says what a volume is in that pool. Only EnforcedBacking leaves that open. A number of
// inodes is a directory's, also in a pool that cannot limit it.
func (s Spec) DecideFor(pool Enforcer) Spec {
	if pool.Enforces() {
		return s.decide(Spec{})
	}
	return s.decideUnenforced()
}

func (s Spec) decideUnenforced() Spec {
	if s.Inodes != 0 {
		return s.decide(Spec{})
	}
	return s.decide(Spec{Backing: ImageBacking, FSType: Ext4})
}

// DecideAs says what a volume is that is the other one, or is copied from it: of EnforcedBacking
// only that is left open. A raw block volume is never the answer to a mount.
func (s Spec) DecideAs(other Spec) Spec {
	if other.IsBlock() || s.Inodes != 0 {
		return s.decideUnenforced()
	}
	return s.decide(other)
}

// decide takes what holds the data from another specification.
func (s Spec) decide(from Spec) Spec {
	if s.Backing != EnforcedBacking {
		return s
	}
	s.Backing, s.FSType = from.Backing, from.FSType
	if !s.IsImage() {
		s.Allocation = ""
	}
	return s
}

// backing is what holds the data, in the class's word.
func (s Spec) backing() string {
	if s.EnforcedSize {
		return string(EnforcedBacking)
	}
	return string(s.Backing)
}
