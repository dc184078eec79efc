package mount

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Options are the attributes of one mount. They belong to the mount, not to the filesystem: two
// mounts of a volume may differ.
type Options struct {
	// attributes are MOUNT_ATTR_ bits (mount_setattr(2)) without those for access times.
	attributes uint64
	// atime is one of the MOUNT_ATTR__ATIME values. It counts if setAtime is true; otherwise the
	// mount keeps that of the pool's own mount.
	atime    uint64
	setAtime bool
	// recursive shows what is mounted below the source as well, with the same attributes.
	recursive bool
}

// attribute is one mount flag in the three forms that the kernel has for it.
type attribute struct {
	name    string
	attr    uint64  // mount_setattr(2)
	ms      uintptr // mount(2), for a new filesystem
	st      int64   // statfs(2), f_flags
	isAtime bool
}

// attributes are the flags that a caller may ask for. They can only take rights away: "suid", "dev"
// and "exec" are not among them, nor are options of the filesystem, which all volumes of a pool
// share.
var attributes = []attribute{
	{name: "ro", attr: unix.MOUNT_ATTR_RDONLY, ms: unix.MS_RDONLY, st: unix.ST_RDONLY},
	{name: "nosuid", attr: unix.MOUNT_ATTR_NOSUID, ms: unix.MS_NOSUID, st: unix.ST_NOSUID},
	{name: "nodev", attr: unix.MOUNT_ATTR_NODEV, ms: unix.MS_NODEV, st: unix.ST_NODEV},
	{name: "noexec", attr: unix.MOUNT_ATTR_NOEXEC, ms: unix.MS_NOEXEC, st: unix.ST_NOEXEC},
	{
		name: "nosymfollow",
		attr: unix.MOUNT_ATTR_NOSYMFOLLOW,
		ms:   unix.MS_NOSYMFOLLOW,
		st:   stNoSymfollow,
	},
	{
		name: "nodiratime",
		attr: unix.MOUNT_ATTR_NODIRATIME,
		ms:   unix.MS_NODIRATIME,
		st:   unix.ST_NODIRATIME,
	},
	{
		name:    "noatime",
		attr:    unix.MOUNT_ATTR_NOATIME,
		ms:      unix.MS_NOATIME,
		st:      unix.ST_NOATIME,
		isAtime: true,
	},
	{
		name:    "relatime",
		attr:    unix.MOUNT_ATTR_RELATIME,
		ms:      unix.MS_RELATIME,
		st:      unix.ST_RELATIME,
		isAtime: true,
	},
	{name: "strictatime", attr: unix.MOUNT_ATTR_STRICTATIME, ms: unix.MS_STRICTATIME, isAtime: true},
}

// stNoSymfollow is ST_NOSYMFOLLOW of linux/statfs.h, which x/sys does not have.
const stNoSymfollow = 0x2000

// FlagNames lists the mount flags that ParseOptions takes.
func FlagNames() []string {
	names := make([]string, 0, len(attributes))
	for _, a := range attributes {
		names = append(names, a.name)
	}
	return names
}

// ParseOptions parses mount flags; nosuid and nodev are always on. Errors: ErrInvalid, naming the
// flag.
func ParseOptions(flags []string) (Options, error) {
	o := Options{attributes: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	for _, flag := range flags {
		i := slices.IndexFunc(attributes, func(a attribute) bool { return a.name == flag })
		if i < 0 {
			// A value may be a password, and messages are logged.
			name, _, _ := strings.Cut(flag, "=")
			return Options{}, fmt.Errorf("%w: mount flag %q is not allowed; allowed: %s", volume.ErrInvalid,
				name, strings.Join(FlagNames(), ", "))
		}
		a := attributes[i]
		switch {
		case !a.isAtime:
			o.attributes |= a.attr
		case o.setAtime && o.atime != a.attr:
			return Options{}, fmt.Errorf("%w: mount flag %q contradicts another one about access times",
				volume.ErrInvalid, flag)
		default:
			o.atime, o.setAtime = a.attr, true
		}
	}
	return o, nil
}

// AsReadOnly returns the options with ro.
func (o Options) AsReadOnly() Options {
	o.attributes |= unix.MOUNT_ATTR_RDONLY
	return o
}

// Recursive returns the options for the source and everything mounted below it.
func (o Options) Recursive() Options {
	o.recursive = true
	return o
}

// WithDevices returns the options without nodev, for a source that is a device node.
func (o Options) WithDevices() Options {
	o.attributes &^= unix.MOUNT_ATTR_NODEV
	return o
}

// ReadOnly reports whether the mount refuses writes.
func (o Options) ReadOnly() bool { return o.attributes&unix.MOUNT_ATTR_RDONLY != 0 }

// attr returns the argument of mount_setattr(2).
func (o Options) attr() *unix.MountAttr {
	a := &unix.MountAttr{Attr_set: o.attributes, Propagation: o.propagation()}
	if o.setAtime {
		a.Attr_set |= o.atime
		a.Attr_clr = unix.MOUNT_ATTR__ATIME
	}
	return a
}

// propagation takes the mount out of its source's peer group (mount_namespaces(7)). A mount that
// somebody makes in a pod's volume must not appear in the pool or on the host, nor one of the host
// in the volume; and to unmount a tree with mounts of the host would unmount these on the host as
// well. There is one exception, as with HostToContainer of hostPath: what the host mounts later
// below a path of its own appears below a writable target. Below a read-only one it would be
// writable.
func (o Options) propagation() uint64 {
	if o.recursive && !o.ReadOnly() {
		return unix.MS_SLAVE
	}
	return unix.MS_PRIVATE
}

// satisfiedBy reports whether an existing mount, by its statfs(2) flags, is read-only exactly if
// the options are, and at least as restricted as they are.
func (o Options) satisfiedBy(have int64) bool {
	if o.ReadOnly() != (have&unix.ST_RDONLY != 0) {
		return false
	}
	return !slices.ContainsFunc(attributes, func(a attribute) bool {
		return !a.isAtime && o.attributes&a.attr != 0 && have&a.st == 0
	})
}

// String lists the flags as mount(8) does, for messages.
func (o Options) String() string {
	return join(func(a attribute) bool { return o.attributes&a.attr != 0 && !a.isAtime })
}

// flagNames lists the flags that statfs(2) returned, as String does.
func flagNames(st int64) string {
	return join(func(a attribute) bool { return st&a.st != 0 })
}

func join(has func(attribute) bool) string {
	var names []string
	for _, a := range attributes {
		if has(a) {
			names = append(names, a.name)
		}
	}
	return strings.Join(names, ",")
}
