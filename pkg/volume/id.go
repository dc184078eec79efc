package volume

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// poolIDDigits is how much of a pool's UUID stands in an ID: 48 bits, and the driver refuses two
// pools that share them.
const poolIDDigits = 12

// PoolID is the first 12 hexadecimal digits of a pool's UUID.
type PoolID string

// ParsePoolID reads the digits from a UUID or a PoolID. Errors: ErrInvalid.
func ParsePoolID(s string) (PoolID, error) {
	if len(s) != poolIDDigits || !isHex(s) {
		return "", fmt.Errorf("%w: pool ID %q is not %d lower-case hexadecimal digits", ErrInvalid, s,
			poolIDDigits)
	}
	return PoolID(s), nil
}

// ID is a volume's ID: the pool that holds it and its directory there. IDs compare with ==. The
// zero ID names nothing.
type ID struct {
	pool PoolID
	dir  string
}

// NewID is the ID of the named volume in a pool.
func NewID(pool PoolID, name Name) ID { return ID{pool: pool, dir: name.dir} }

// ParseID reads "<12 hex>-<directory>". What it returns is safe to use as a path component. Errors:
// ErrNotFound for a string that CreateVolume cannot have returned, for example one with a slash: no
// volume can exist that has it, on any node. ErrInvalid for an empty or too long string.
func ParseID(s string) (ID, error) {
	if s == "" {
		return ID{}, fmt.Errorf("%w: volume ID is empty", ErrInvalid)
	}
	if len(s) > MaxNameBytes {
		return ID{}, fmt.Errorf("%w: volume ID has %d bytes, at most %d are allowed", ErrInvalid, len(s),
			MaxNameBytes)
	}
	if len(s) <= poolIDDigits+1 || s[poolIDDigits] != '-' || !isHex(s[:poolIDDigits]) ||
		!isDir(s[poolIDDigits+1:]) {
		return ID{}, fmt.Errorf(
			"%w: %q is not a volume ID of this driver: want <12 hex digits of the pool's UUID>-<name>",
			ErrNotFound,
			s,
		)
	}
	return ID{pool: PoolID(s[:poolIDDigits]), dir: s[poolIDDigits+1:]}, nil
}

// IsID says whether ParseID would take it.
func IsID(s string) bool {
	_, err := ParseID(s)
	return err == nil
}

// referencePrefix begins the ID of a dynamically made reference to a path of the host. No pool's ID
// has such digits.
const referencePrefix = "host-"

// ReferenceID is the volume ID of a reference to a path of the host. Nothing on any disk belongs to
// it: what it refers to is in the volume's attributes, and the ID holds a digest of them, so that
// the one cannot be taken for another: a name that is asked for again with another path is another
// volume.
func (p *Parameters) ReferenceID(name Name) string { return p.referenceStem() + name.dir }

// referenceStem is the part of a reference's ID that says what it refers to.
func (p *Parameters) referenceStem() string {
	text := fmt.Appendf(nil, "%q %q %o %d %d",
		p.Path, p.Spec.Type, p.Spec.Mode, p.Spec.UID, p.Spec.GID)
	if !p.Git.IsNone() {
		text = p.Git.digest()
	}
	digest := sha256.Sum256(text)
	return referencePrefix + hex.EncodeToString(digest[:])[:poolIDDigits] + "-"
}

// IsReferenceID says whether ReferenceID may have returned it.
func IsReferenceID(s string) bool {
	rest, ok := strings.CutPrefix(s, referencePrefix)
	return ok && len(rest) > poolIDDigits+1 && isHex(rest[:poolIDDigits]) &&
		rest[poolIDDigits] == '-' &&
		isDir(rest[poolIDDigits+1:])
}

// CheckReference refuses parameters that are not those that the ID of a reference was made of.
// Errors: ErrInvalid.
func (p *Parameters) CheckReference(id string) error {
	if !IsReferenceID(id) || strings.HasPrefix(id, p.referenceStem()) {
		return nil
	}
	if !p.Git.IsNone() {
		return fmt.Errorf("%w: volume %s was made for other content than ref %s of %s", ErrInvalid, id,
			p.Git.Ref, p.Git.URL)
	}
	return fmt.Errorf(
		"%w: volume %s was made for another path, or another type, mode or owner, than %s %s",
		ErrInvalid,
		id,
		p.Spec.Type,
		p.Path,
	)
}

// CheckHandle checks the ID of a volume that the driver has not made: any string, in a
// PersistentVolume written by hand. Errors: ErrInvalid.
func CheckHandle(s string) error {
	if s == "" {
		return fmt.Errorf("%w: volume ID is empty", ErrInvalid)
	}
	if len(s) > MaxNameBytes {
		return fmt.Errorf("%w: volume ID has %d bytes, at most %d are allowed", ErrInvalid, len(s),
			MaxNameBytes)
	}
	return nil
}

// inlinePrefix begins the ID that kubelet gives an inline volume, and 64 hexadecimal digits end it
// (Kubernetes pkg/volume/csi/ csi_mounter.go, makeVolumeHandle).
const (
	inlinePrefix    = "csi-"
	inlineHexDigits = 64
)

// IsInlineHandle says whether kubelet gives such an ID to inline volumes.
func IsInlineHandle(s string) bool {
	digits, ok := strings.CutPrefix(s, inlinePrefix)
	return ok && len(digits) == inlineHexDigits && isHex(digits)
}

// IDFromDir is the ID of a volume found on disk. Errors: ErrCorrupt, for a directory that no volume
// can have.
func IDFromDir(pool PoolID, dir string) (ID, error) {
	if !isDir(dir) {
		return ID{}, fmt.Errorf("%w: %q is not the directory of a volume", ErrCorrupt, dir)
	}
	return ID{pool: pool, dir: dir}, nil
}

// Pool is the pool that holds the volume.
func (id ID) Pool() PoolID { return id.pool }

// Dir is the volume's directory in its pool: one safe path component.
func (id ID) Dir() string { return id.dir }

// String is the form that CSI calls carry, at most 77 bytes.
func (id ID) String() string { return string(id.pool) + "-" + id.dir }

// Compare orders IDs by pool and directory: the order in which they are listed.
func (id ID) Compare(other ID) int {
	return cmp.Or(cmp.Compare(id.pool, other.pool), cmp.Compare(id.dir, other.dir))
}
