package openat

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// The extended attributes that have the ACLs of a file (linux/xattr.h). What is made in a directory
// with a default ACL inherits it, whatever the umask (acl(5), OBJECT CREATION AND DEFAULT ACLs). In
// a file with an ACL, chmod(2) changes the mask and not the rights of the group.
const (
	AccessACL  = "system.posix_acl_access"
	DefaultACL = "system.posix_acl_default"
)

// RemoveACLs removes the ACLs of a file, which may be an O_PATH descriptor. The mode's group bits
// stay those of the mask. It writes nothing where there are none, so it needs no room then.
func RemoveACLs(f *os.File) error {
	for _, acl := range []string{AccessACL, DefaultACL} {
		_, err := unix.Getxattr(Path(f), acl, nil)
		if err == nil {
			err = unix.Removexattr(Path(f), acl)
		}
		if err != nil && !IsNoACL(err) {
			return &os.PathError{Op: "remove " + acl, Path: f.Name(), Err: err}
		}
	}
	return nil
}

// IsNoACL reports whether an error of getxattr(2) means that the file has no ACL, or that its
// filesystem has none.
func IsNoACL(err error) bool {
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP)
}

// RemoveInheritedACLs removes the ACLs that the caller's new directory or file has inherited from
// dir, its parent, and gives it exactly that mode, of which it knows the type. It costs one system
// call where, as nearly always, nothing was inherited; then the mode stays as it is.
func RemoveInheritedACLs(dir int, name string, mode uint32) error {
	inherited := AccessACL
	if mode&unix.S_IFMT == unix.S_IFDIR { // may have inherited a default ACL and no other one
		inherited = DefaultACL
	}
	if _, err := unix.Lgetxattr(PathOfFD(dir)+"/"+name, inherited, nil); err != nil {
		if IsNoACL(err) {
			return nil
		}
		return &os.PathError{Op: "read " + inherited, Path: name, Err: err}
	}
	f, err := openFile(dir, name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := RemoveACLs(f); err != nil {
		return err
	}
	return os.NewSyscallError("chmod", unix.Chmod(Path(f), mode&^unix.S_IFMT))
}
