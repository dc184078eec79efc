package mount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// Mount is one line of the mount table (proc_pid_mountinfo(5)).
type Mount struct {
	ID int
	// Device is the filesystem's "major:minor". For btrfs stat(2) of a file returns another one, so
	// compare it only with that of other Mounts.
	Device string
	// Root is the path within the filesystem that is shown at Point.
	Root   string
	Point  string
	FSType string
	// Source is the device or whatever else was mounted; the kernel does not interpret it.
	Source string
	// FSOptions are the options of the filesystem, separated by commas: the same for all its mounts.
	FSOptions string
	// Shared means that a mount below Point also appears in other mount namespaces, such as
	// kubelet's (mount_namespaces(7)).
	Shared bool
	parent int // the ID of the mount that has Point
}

// Table reads the mount table of this process's mount namespace. The cost grows with the number of
// mounts: call it at the start of the driver and in rare cases, not in every RPC.
func Table() ([]Mount, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	mounts := make([]Mount, 0, len(infos))
	for _, info := range infos {
		mounts = append(mounts, Mount{
			ID:     info.ID,
			parent: info.Parent,
			Device: fmt.Sprintf("%d:%d", info.Major, info.Minor),
			Root:   info.Root,
			Point:  info.Mountpoint,
			FSType: info.FSType,
			Source: info.Source,
			Shared: strings.HasPrefix(info.Optional, "shared:"),

			FSOptions: info.VFSOptions,
		})
	}
	return mounts, nil
}

// Location is the place of a file in its filesystem, wherever that is mounted.
type Location struct {
	device string
	root   string
}

// Locate returns the location of an open directory.
func Locate(d *os.File) (Location, error) {
	mounts, err := Table()
	if err != nil {
		return Location{}, err
	}
	return LocateIn(mounts, d)
}

// LocateIn returns the location of an open directory or file. The mount table must have been read
// after the file was opened.
func LocateIn(mounts []Mount, d *os.File) (Location, error) {
	m, err := Of(mounts, d)
	if err != nil {
		return Location{}, err
	}
	name, err := os.Readlink(openat.Path(d))
	if err != nil {
		return Location{}, err
	}
	rel, ok := below(m.Point, name)
	if !ok {
		return Location{}, fmt.Errorf(
			"%s is not below its mount point %s: was it moved while the driver started?",
			name,
			m.Point,
		)
	}
	return Location{device: m.Device, root: path.Join(m.Root, rel)}, nil
}

// Exposed returns all locations that a recursive bind mount of an open directory or file shows: its
// own and those of the mounts below it.
func Exposed(mounts []Mount, f *os.File) ([]Location, error) {
	own, err := LocateIn(mounts, f)
	if err != nil {
		return nil, err
	}
	name, err := os.Readlink(openat.Path(f))
	if err != nil {
		return nil, err
	}
	exposed := []Location{own}
	for _, m := range mounts {
		if rest, isBelow := below(name, m.Point); isBelow && rest != "" {
			exposed = append(exposed, Location{device: m.Device, root: m.Root})
		}
	}
	return exposed, nil
}

// Overlaps reports whether the locations are the same, or one of them contains the other.
func (l Location) Overlaps(other Location) bool {
	if l.device != other.device {
		return false
	}
	_, contains := below(l.root, other.root)
	_, isContained := below(other.root, l.root)
	return contains || isContained
}

// Below reports whether a mount shows the location or something below it, and the path from the
// location to what it shows.
func (l Location) Below(m Mount) (string, bool) {
	if m.Device != l.device {
		return "", false
	}
	return below(l.root, m.Root)
}

// below returns the part of an absolute clean path after base; false if the path is not base or
// below it.
func below(base, name string) (string, bool) {
	if name == base {
		return "", true
	}
	return strings.CutPrefix(name, strings.TrimSuffix(base, "/")+"/")
}

// Of finds the mount through which a file was opened. The mount table must have been read after
// that.
func Of(mounts []Mount, f *os.File) (Mount, error) {
	id, err := mountID(f)
	if err != nil {
		return Mount{}, err
	}
	i := slices.IndexFunc(mounts, func(m Mount) bool { return m.ID == id })
	if i < 0 {
		return Mount{}, fmt.Errorf("mount %d of %s is not in the mount table", id, f.Name())
	}
	return mounts[i], nil
}

// mountID returns the ID that the mount table has (proc_pid_fdinfo(5)).
func mountID(f *os.File) (int, error) {
	info, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0, err
	}
	defer info.Close()
	lines := bufio.NewScanner(info)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, errors.Join(fmt.Errorf("%s has no mnt_id", info.Name()), lines.Err())
}
