package fsgroup

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// An ACL as an extended attribute has a header, its version, and entries of a tag, rights and an ID
// (linux/posix_acl_xattr.h), all little-endian.
const (
	aclHeader = 4
	aclEntry  = 8
	aclRights = 2 // where the rights are in an entry
	aclAll    = 7 // read, write, execute
	// groupObject is ACL_GROUP_OBJ of linux/posix_acl.h, the entry of the file's group.
	groupObject = 0x04
)

// admitInACL gives a file's group these rights in the file's ACL, and returns whether the ACL has
// changed. In a file without an ACL the group has what the mode says. In one with an ACL the mode
// has the mask, and the group an entry of its own (acl(5)). path is that of an open file below
// /proc.
func admitInACL(path string, rights uint32) (changed bool, err error) {
	acl, err := readACL(path)
	if acl == nil || err != nil {
		return false, err
	}
	if !addGroupRights(acl, uint16(rights&aclAll)) {
		return false, nil
	}
	return true, os.NewSyscallError("setxattr", unix.Setxattr(path, openat.AccessACL, acl, 0))
}

// readACL returns nil where there is no ACL.
func readACL(path string) ([]byte, error) {
	var acl []byte
	for {
		size, err := unix.Getxattr(path, openat.AccessACL, acl)
		switch {
		case openat.IsNoACL(err):
			return nil, nil
		case err == nil && acl != nil:
			return acl[:size], nil
		case err != nil && !errors.Is(err, unix.ERANGE): // it has grown
			return nil, os.NewSyscallError("getxattr", err)
		}
		acl = make([]byte, max(size, 2*len(acl), aclHeader+aclEntry))
	}
}

// addGroupRights changes the entry of the file's group, and returns whether it has changed.
func addGroupRights(acl []byte, rights uint16) bool {
	for at := aclHeader; at+aclEntry <= len(acl); at += aclEntry {
		if binary.LittleEndian.Uint16(acl[at:]) != groupObject {
			continue
		}
		has := binary.LittleEndian.Uint16(acl[at+aclRights:])
		binary.LittleEndian.PutUint16(acl[at+aclRights:], has|rights)
		return has|rights != has
	}
	return false
}
