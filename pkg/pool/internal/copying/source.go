package copying

import (
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Source is the volume or the snapshot that is copied. The caller keeps others from deleting it.
type Source struct {
	// Name is the ID of the source in error messages.
	Name fmt.Stringer
	// Dir is the directory of the source.
	Dir     openat.Dir
	QuotaID volume.QuotaID
	Spec    volume.Spec
	// Bytes is the size of a volume, or of the volume that a snapshot was made of.
	Bytes int64
}

// CheckFits says whether a volume of that specification and size can be made from the source.
// Errors: ErrInvalid, ErrOutOfRange.
func (s Source) CheckFits(spec volume.Spec, size volume.SizeRange) error {
	switch {
	case spec.IsImage() != s.Spec.IsImage(), spec.FSType != s.Spec.FSType:
		return fmt.Errorf(
			"%w: a copy of %s has the backing, the volumeMode and the fsType of its source%s",
			volume.ErrInvalid, s.Name, s.Spec.Differences(spec))
	case spec.Type != s.Spec.Type:
		return fmt.Errorf("%w: a copy of %s has the type of its source, %s; requested: %s",
			volume.ErrInvalid, s.Name, s.Spec.Type, spec.Type)
	case size.Required > 0 && size.Required < s.Bytes, size.Limit > 0 && size.Limit < s.Bytes:
		return fmt.Errorf("%w: a copy of %s has at least the size of its source, %d bytes; requested: %s",
			volume.ErrOutOfRange, s.Name, s.Bytes, size)
	default:
		return nil
	}
}
