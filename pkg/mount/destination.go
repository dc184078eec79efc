package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// Destination is where a path leads: its name after all links are followed, and its location in a
// filesystem.
type Destination struct {
	name     string
	location Location
}

// OpenNearest opens the directory at a path or, if it does not exist, the nearest one above it.
// rest is the path from there, empty for the directory itself. The caller closes it.
func OpenNearest(name string) (d *os.File, rest string, err error) {
	return openNearest(name, os.O_RDONLY)
}

func openNearest(name string, flags int) (d *os.File, rest string, err error) {
	d, err = os.OpenFile(name, flags|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if !errors.Is(err, os.ErrNotExist) || name == "/" {
		return d, "", err
	}
	d, rest, err = openNearest(filepath.Dir(name), flags)
	return d, path.Join(rest, filepath.Base(name)), err
}

// DestinationOf returns where a path leads that starts at an open directory. The mount table must
// have been read after the directory was opened.
func DestinationOf(mounts []Mount, d *os.File, rest string) (Destination, error) {
	location, err := LocateIn(mounts, d)
	if err != nil {
		return Destination{}, err
	}
	name, err := os.Readlink(openat.Path(d))
	if err != nil {
		return Destination{}, err
	}
	location.root = path.Join(location.root, rest)
	return Destination{name: path.Join(name, rest), location: location}, nil
}

// Follow returns where a path leads, whether or not it exists.
func Follow(mounts []Mount, name string) (Destination, error) {
	// With O_PATH, because the filesystem there may not answer.
	d, rest, err := openNearest(name, unix.O_PATH)
	if err != nil {
		return Destination{}, err
	}
	defer d.Close()
	return DestinationOf(mounts, d, rest)
}

// IsSame reports whether both are one directory, which may have two names.
func (d Destination) IsSame(other Destination) bool { return d.location == other.location }

// Overlaps reports whether one of them is the other or contains it: by name, or, through a bind
// mount, by location.
func (d Destination) Overlaps(other Destination) bool {
	return d.containsByName(other) || other.containsByName(d) || d.location.Overlaps(other.location)
}

func (d Destination) containsByName(other Destination) bool {
	_, contains := below(d.name, other.name)
	return contains
}

// String is for messages: the name, and the location that reveals a bind mount.
func (d Destination) String() string {
	return fmt.Sprintf("%s (%s of filesystem %s)", d.name, d.location.root, d.location.device)
}
