package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Destination is where a path leads: by its name when every link is followed, and in its
// filesystem, by whatever name.
type Destination struct {
	name     string
	location Location
}

// OpenNearest opens the directory at a path or, if there is none, the nearest one above it; rest is
// the way from there to the path, empty for the directory itself. The caller closes it.
func OpenNearest(name string) (d *os.File, rest string, err error) {
	d, err = os.OpenFile(name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if !errors.Is(err, os.ErrNotExist) || name == "/" {
		return d, "", err
	}
	d, rest, err = OpenNearest(filepath.Dir(name))
	return d, path.Join(rest, filepath.Base(name)), err
}

// DestinationOf is where the rest of a path leads that begins at an open directory; the mounts are
// all there are.
func DestinationOf(mounts []Mount, d *os.File, rest string) (Destination, error) {
	location, err := LocateIn(mounts, d)
	if err != nil {
		return Destination{}, err
	}
	name, err := os.Readlink(fdPath(d))
	if err != nil {
		return Destination{}, err
	}
	location.root = path.Join(location.root, rest)
	return Destination{name: path.Join(name, rest), location: location}, nil
}

// Follow is where a path leads, whether or not anything is there.
func Follow(mounts []Mount, name string) (Destination, error) {
	d, rest, err := OpenNearest(name)
	if err != nil {
		return Destination{}, err
	}
	defer d.Close()
	return DestinationOf(mounts, d, rest)
}

// IsSame says whether they are one directory, also by two names.
func (d Destination) IsSame(other Destination) bool { return d.location == other.location }

// Overlaps says whether one of them is the other or contains it: by name, as a filesystem that is
// mounted there does, or in a filesystem that both show, as a bind mount does.
func (d Destination) Overlaps(other Destination) bool {
	return d.containsByName(other) || other.containsByName(d) || d.location.Overlaps(other.location)
}

func (d Destination) containsByName(other Destination) bool {
	_, contains := below(d.name, other.name)
	return contains
}

// String is for people: the name, and what the filesystem calls it, which is what a bind mount
// shows.
func (d Destination) String() string {
	return fmt.Sprintf("%s (%s of filesystem %s)", d.name, d.location.root, d.location.device)
}
