package mount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// TargetAt returns the target at a mount point of the mount table, where the base directory has its
// resolved name; false if the mount point is elsewhere.
func TargetAt(base, resolved, point string) (Target, bool) {
	rel, ok := below(resolved, point)
	if !ok || rel == "" {
		return Target{}, false
	}
	return Target{base: base, rel: rel}, true
}

// PointsOf lists the mount points that show a file or directory, or part of it, also those covered
// by other mounts. It reads the mount table: call it in doubtful cases only.
func PointsOf(f *os.File) ([]string, error) {
	mounts, err := Table()
	if err != nil {
		return nil, err
	}
	location, err := LocateIn(mounts, f)
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range mounts {
		if _, shows := location.Below(m); shows {
			points = append(points, m.Point)
		}
	}
	return points, nil
}

// At returns the topmost mount at a target; false if nothing is mounted there. It reads the mount
// table only if something is mounted, or if a filesystem that has died does not say whether it is
// (XFS: stat(2) of a mount point is EIO).
func At(t Target) (top Mount, mounted bool, err error) {
	mounted, lookErr := Mounted(t)
	if lookErr == nil && !mounted {
		return Mount{}, false, nil
	}
	resolved, err := filepath.EvalSymlinks(t.base)
	if err != nil {
		return Mount{}, false, err
	}
	mounts, err := Table()
	if err != nil {
		return Mount{}, false, err
	}
	// The table is in the order of mounting: the last mount is on top.
	for _, m := range slices.Backward(mounts) {
		if at, ok := TargetAt(t.base, resolved, m.Point); ok && at == t {
			return m, true, nil
		}
	}
	return Mount{}, mounted, lookErr
}

// Open opens the topmost file at a target with O_PATH, and returns whether it is a mount. The
// caller closes it. Errors: os.ErrNotExist.
func Open(t Target) (f *os.File, mounted bool, err error) {
	at, err := t.open()
	if err != nil {
		return nil, false, err
	}
	defer at.close()
	if f, err = at.openEntry(); err != nil {
		return nil, false, err
	}
	st, err := statx(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, false, errors.Join(&os.PathError{Op: "statx", Path: t.String(), Err: err}, f.Close())
	}
	return f, st.mountRoot, nil
}

// isAbsent reports whether an error means that nothing can exist at a path.
func isAbsent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
