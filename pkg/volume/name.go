package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxNameBytes is the CSI limit on a volume's name (spec, "Size Limits": 128 bytes for a string
	// field).
	MaxNameBytes = 128
	// maxDirBytes keeps an ID (12 hex, a dash, the directory) well below the same limit.
	maxDirBytes = 64

	hashPrefix     = "h-"
	snapshotPrefix = "s-"
	hashHexDigits  = 40
)

// Name is a volume's name as the caller of CreateVolume chose it, together with the directory that
// stands for it in a pool. The zero Name is no name; ParseName makes the only others.
type Name struct {
	full string
	dir  string
}

// ParseName takes any non-empty string of at most MaxNameBytes: one that is not a safe file name
// gets a directory made of its SHA-256, so that two names never share one. Only what protobuf would
// not carry either, bytes that are not UTF-8, is refused, because the record could not give it
// back. Errors: ErrInvalid.
func ParseName(s string) (Name, error) {
	switch {
	case s == "":
		return Name{}, fmt.Errorf("%w: name is empty: give the volume a name of 1 to %d bytes",
			ErrInvalid, MaxNameBytes)
	case len(s) > MaxNameBytes:
		return Name{}, fmt.Errorf("%w: name has %d bytes, at most %d are allowed", ErrInvalid, len(s),
			MaxNameBytes)
	case !utf8.ValidString(s):
		return Name{}, fmt.Errorf("%w: name %q is not UTF-8", ErrInvalid, s)
	}
	if isPlainDir(s) {
		return Name{full: s, dir: s}, nil
	}
	sum := sha256.Sum256([]byte(s))
	return Name{full: s, dir: hashPrefix + hex.EncodeToString(sum[:])[:hashHexDigits]}, nil
}

// ParseNewName takes what ParseName takes, but for the control characters that the specification
// bans from the name of a new volume or snapshot (CSI spec, CreateVolumeRequest.name and
// CreateSnapshotRequest.name). A volume's ID in a PersistentVolume may have them. Errors:
// ErrInvalid.
func ParseNewName(s string) (Name, error) {
	name, err := ParseName(s)
	if err != nil {
		return Name{}, err
	}
	if i := strings.IndexFunc(s, isBanned); i >= 0 {
		r, _ := utf8.DecodeRuneInString(s[i:])
		return Name{}, fmt.Errorf("%w: name %q has the control character %U, which CSI allows in no name",
			ErrInvalid, s, r)
	}
	return name, nil
}

// isBanned: "U+0000-U+0008, U+000B, U+000C, U+000E-U+001F, U+007F-U+009F", which are all control
// characters but tab, line feed and carriage return.
func isBanned(r rune) bool { return unicode.IsControl(r) && r != '\t' && r != '\n' && r != '\r' }

// String is the name as the caller wrote it: arbitrary bytes, never part of a path.
func (n Name) String() string { return n.full }

// Dir is the directory of the name in a pool: one safe path component.
func (n Name) Dir() string { return n.dir }

// isPlainDir says whether a name can be its own directory. The prefixes are kept free: "h-" for
// hashed names, "s-" for snapshots, so that no volume ID can be read as a snapshot ID.
func isPlainDir(s string) bool {
	if s == "" || len(s) > maxDirBytes || !isAlphanumeric(s[0]) || strings.HasPrefix(s, hashPrefix) ||
		strings.HasPrefix(s, snapshotPrefix) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// isDir says whether s can be the directory of some volume. (Bytes are compared here and below
// because every call parses an ID: a regular expression would be a sixth of the call's whole
// overhead.)
func isDir(s string) bool {
	digits, hashed := strings.CutPrefix(s, hashPrefix)
	return isPlainDir(s) || hashed && len(digits) == hashHexDigits && isHex(digits)
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// isHex says whether s consists of lower-case hexadecimal digits.
func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
