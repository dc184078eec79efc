package hostpath

import (
	"fmt"
	"hash/fnv"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// lanes is how many paths of one filesystem are asked for at a time. A filesystem that hangs costs
// as many threads.
const lanes = 4

// Lane names the filesystem of a path and one of a few lanes in it, without a question to that
// filesystem: by the nearest directory above that the kernel knows. The directory on which a
// filesystem is mounted is always known (it has a reference from the mount), so a path below is not
// taken for one of the filesystem above. If nothing is known, as on kernels before 5.12, the path
// is a lane of its own.
func (h *Host) Lane(name string) string {
	root, err := openat.OpenFD(unix.AT_FDCWD, h.root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return name
	}
	defer unix.Close(root)
	for at := name; at != "/" && at != "."; at = path.Dir(at) {
		if device, ok := knownDevice(root, strings.TrimPrefix(at, "/")); ok {
			digest := fnv.New32a()
			_, _ = digest.Write([]byte(name))
			return fmt.Sprintf("filesystem %d, lane %d", device, digest.Sum32()%lanes)
		}
	}
	return name
}

// knownDevice is the device of what stands at a path, if the kernel knows without asking.
func knownDevice(root int, rel string) (device uint64, ok bool) {
	fd, err := openat.ResolveFD(root, rel, unix.O_PATH, openat.Known)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	return unix.Mkdev(st.Dev_major, st.Dev_minor), err == nil
}
