package disks

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// The extended attributes that have the ACLs of a file (linux/xattr.h).
const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// The tags of an ACL's entries (linux/posix_acl.h).
const (
	userObject  = 0x01
	user        = 0x02
	groupObject = 0x04
	mask        = 0x10
	other       = 0x20
	// anyID is the ID of an entry that names nobody.
	anyID = 0xffffffff
)

// ACLUser is the user that SetACL gives rights to.
const ACLUser = 1234

// SetDefaultACL does what `setfacl -m d:u:1234:rwX` does: everything that is made in the directory
// gives the user rights from then on.
func SetDefaultACL(t testing.TB, dir string) {
	t.Helper()
	setACL(t, dir, defaultACL)
}

// SetACL does what `setfacl -m u:1234:rwX` does, with a group that may only read.
func SetACL(t testing.TB, path string) {
	t.Helper()
	setACL(t, path, accessACL)
}

func setACL(t testing.TB, path, attribute string) {
	t.Helper()
	acl := binary.LittleEndian.AppendUint32(nil, 2) // POSIX_ACL_XATTR_VERSION
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{
		{userObject, 7, anyID},
		{user, 7, ACLUser},
		{groupObject, 5, anyID},
		{mask, 7, anyID},
		{other, 5, anyID},
	} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.perm)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	if err := unix.Setxattr(path, attribute, acl, 0); err != nil {
		t.Fatalf("set %s of %s: %v", attribute, path, err)
	}
}

// ACLsOf names the ACLs that a file has.
func ACLsOf(t testing.TB, path string) (have []string) {
	t.Helper()
	for _, acl := range []string{accessACL, defaultACL} {
		_, err := unix.Lgetxattr(path, acl, nil)
		if err == nil {
			have = append(have, acl)
		} else if !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Fatalf("%s of %s: %v", acl, path, err)
		}
	}
	return have
}
