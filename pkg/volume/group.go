package volume

import "fmt"

// Group is the group that a caller wants a volume to be writable for (CSI spec, volume_mount_group;
// Kubernetes' fsGroup). The zero Group is none: group 0 is root's.
type Group struct {
	ID    uint32
	Given bool
}

// What a group gets of a volume's root, as kubelet gives it (rwMask, execMask and setgid of
// Kubernetes pkg/volume/volume_linux.go). With setgid what is made in the directory is the group's
// as well.
const (
	groupFileMode      = 0o660
	groupDirectoryMode = 0o2770

	// specialFileModes are setuid and setgid: chown(2) takes them from a file, and they are not
	// given back.
	specialFileModes = 0o6000

	// fileType and directoryType are S_IFMT and S_IFDIR (inode(7)).
	fileType      = 0o170000
	directoryType = 0o040000
)

// ParseGroup reads a volume_mount_group; an empty one is none. Errors: ErrInvalid unless it is a
// group ID.
func ParseGroup(s string) (Group, error) {
	if s == "" {
		return Group{}, nil
	}
	id, err := parseUserID(s)
	if err != nil {
		return Group{}, fmt.Errorf("%w: volume_mount_group is %q: %w", ErrInvalid, s, err)
	}
	return Group{ID: id, Given: true}, nil
}

// Mode is the mode of a volume's root, a directory or a file, that had the given one, when the
// group may write to it.
func (g Group) Mode(t Type, mode uint32) uint32 {
	switch {
	case !g.Given:
		return mode
	case t == FileOrCreate:
		return mode&^specialFileModes | groupFileMode
	default:
		return mode | groupDirectoryMode
	}
}

// EntryMode is the mode of what is below the root of a volume, with the bits of its type, when the
// group may write to it. Unlike that of a volume's root, a set-ID bit of a file stays, as with
// kubelet: it is the application's.
func (Group) EntryMode(mode uint32) uint32 {
	if mode&fileType == directoryType {
		return mode | groupDirectoryMode
	}
	return mode | groupFileMode
}

// Of is a specification for the group; that of an existing volume's record stays what it is.
func (g Group) Of(s Spec) Spec {
	if g.Given {
		s.GID, s.Mode = g.ID, g.Mode(s.Type, s.Mode)
	}
	return s
}
