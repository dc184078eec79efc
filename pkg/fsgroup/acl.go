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
// has the mask, and the group an entry of its own (acl(5)).
func admitInACL(fd int, rights uint32) (changed bool, err error) {
	acl, err := readACL(fd)
	if acl == nil || err != nil {
		return false, err
	}
	if !addGroupRights(acl, uint16(rights&aclAll)) {
		return false, nil
	}
	err = unix.Setxattr(openat.PathOfFD(fd), openat.AccessACL, acl, 0)
	return true, os.NewSyscallError("setxattr", err)
}

// readACL returns nil where there is no ACL.
func readACL(fd int) ([]byte, error) {
	var acl []byte
	for {
		size, err := unix.Getxattr(openat.PathOfFD(fd), openat.AccessACL, acl)
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

// mayHaveACL asks by name, and not by descriptor, because that takes a fifth of the time: nothing
// follows from the answer but whether a descriptor is asked as well. Before Linux 6.13 (getxattrat)
// it is.
func mayHaveACL(dir int, name string) bool {
	_, err := openat.GetxattrAt(dir, name, openat.AccessACL, nil)
	return !openat.IsNoACL(err)
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
