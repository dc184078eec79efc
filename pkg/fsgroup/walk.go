package fsgroup

import (
	"cmp"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/pkg/workers"
)

const (
	// openLevels bounds how many directories of a walk are open at once, however deep the tree.
	openLevels = 32
	// maxDepth bounds the memory for directories that are not open. No path is that deep: PATH_MAX
	// allows a fifth of it.
	maxDepth = 10_000
	// batch is how many names of a directory are in memory at a time.
	batch = 1024
	// atATime is how many files are changed before other work may go first: a fraction of a
	// millisecond.
	atATime = 32

	readDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME
)

// regrouper gives what a directory holds to a group, whatever a pod does to the tree meanwhile:
// every entry is opened first, without following a link or crossing a mount, and changed by its
// descriptor. What a pod moves from a directory that was not read yet into one that was may be left
// out.
type regrouper struct {
	*workers.Group

	group    volume.Group
	trees    sync.WaitGroup
	progress *Progress
}

// level is a directory on the path from the root to where a walk is.
type level struct {
	fd      int // -1 while the directory is parked
	depth   int
	entries openat.EntryReader
	// helpers are the other workers that change files of this directory.
	helpers sync.WaitGroup
	// parked identifies a directory that is not open (name_to_handle_at(2)), wherever a pod moves it.
	parked unix.FileHandle
}

func (l *level) close() {
	l.helpers.Wait()
	if l.fd >= 0 {
		unix.Close(l.fd)
		l.fd = -1
	}
}

// walk changes all that is in a directory, except what other workers take over, and closes the
// directory. It is depth first, so that it remembers one position for each level.
func (r *regrouper) walk(fd, depth int) {
	levels := []*level{{fd: fd, depth: depth}}
	var err error
	for err == nil && len(levels) > 0 {
		levels, err = r.step(levels)
	}
	if err != nil {
		r.Fail(err) // before the levels are closed, so that helpers stop
	}
	for _, l := range levels {
		l.close()
	}
}

// step changes some files of the last directory. Then it goes down, if a directory follows, or up,
// if the directory has ended.
func (r *regrouper) step(levels []*level) ([]*level, error) {
	if err := r.Stopped(); err != nil {
		return levels, err
	}
	last := levels[len(levels)-1]
	found, directory, end := last.entries.NextFiles(last.fd, batch)
	if end != nil && !errors.Is(end, io.EOF) {
		return levels, end
	}
	// The disk has the files in the order of their inodes.
	slices.SortFunc(found, func(a, b openat.Entry) int { return cmp.Compare(a.Inode, b.Inode) })
	if err := r.files(last.fd, found, &last.helpers); err != nil {
		return levels, err
	}
	switch {
	case end != nil:
		return r.up(levels)
	case directory != "":
		return r.down(levels, directory)
	default:
		return levels, nil
	}
}

// files changes entries, some at a time. Before each time, it offers half of the remaining entries
// to an idle worker.
func (r *regrouper) files(dir int, left []openat.Entry, helpers *sync.WaitGroup) error {
	for len(left) > 0 {
		if err := r.Proceed(); err != nil {
			return err
		}
		if half := len(left) / 2; half >= atATime {
			theirs := left[half:]
			if r.Offer(helpers, func() error { return r.files(dir, theirs, helpers) }) {
				left = left[:half]
			}
		}
		now := left[:min(atATime, len(left))]
		if err := r.some(dir, now); err != nil {
			return err
		}
		left = left[len(now):]
	}
	return nil
}

// some changes entries that were no directories when their names were read.
func (r *regrouper) some(dir int, entries []openat.Entry) error {
	var n counts
	defer func() { r.progress.add(n) }()
	for _, e := range entries {
		// A name leads to no mount but the topmost one on it, which give finds. openat2(2) takes longer.
		fd, err := openat.OpenFD(dir, e.Name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err == nil {
			err = r.give(fd, dir, e.Name, &n)
			unix.Close(fd)
		}
		if err := skip(e.Name, err, &n); err != nil {
			return err
		}
	}
	return nil
}

// give changes an entry of any type by its descriptor. Errors: EXDEV for a mount.
func (r *regrouper) give(fd, dir int, name string, n *counts) error {
	st, err := stat(fd)
	if err != nil {
		return err
	}
	if st.isMount {
		return unix.EXDEV
	}
	changed, err := give(fd, st, r.group, r.group.EntryMode(st.mode)&^unix.S_IFMT)
	if err == nil && st.fileType() != unix.S_IFLNK && mayHaveACL(dir, name) {
		var admitted bool
		admitted, err = admitInACL(fd, r.group.EntryMode(st.fileType())>>groupShift)
		changed = changed || admitted
	}
	n.seen++
	if changed {
		n.changed++
	}
	return err
}

// down goes on in a subdirectory, unless an idle worker takes it over. The subdirectory is changed
// at once: only the root has to be the last.
func (r *regrouper) down(levels []*level, name string) ([]*level, error) {
	last := levels[len(levels)-1]
	fd, err := r.subdirectory(last.fd, name)
	if err != nil || fd < 0 {
		return levels, err
	}
	depth := last.depth + 1
	if depth == maxDepth {
		r.progress.add(counts{skipped: 1})
		unix.Close(fd)
		return levels, nil
	}
	if r.Offer(&r.trees, func() error { r.walk(fd, depth); return nil }) {
		return levels, nil
	}
	levels = append(levels, &level{fd: fd, depth: depth})
	if len(levels) <= openLevels {
		return levels, nil
	}
	return levels, levels[len(levels)-1-openLevels].park()
}

// subdirectory opens a subdirectory and changes it; -1 if it is not to be entered.
func (r *regrouper) subdirectory(dir int, name string) (int, error) {
	var n counts
	defer func() { r.progress.add(n) }()
	fd, err := openat.ResolveFD(dir, name, readDirectory, openat.OnMount)
	if err != nil {
		return -1, skip(name, err, &n)
	}
	err = r.give(fd, dir, name, &n)
	if err := skip(name, err, &n); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// up goes back to the parent of the last directory.
func (r *regrouper) up(levels []*level) ([]*level, error) {
	last := levels[len(levels)-1]
	defer last.close()
	levels = levels[:len(levels)-1]
	if len(levels) == 0 {
		return levels, nil
	}
	return levels, levels[len(levels)-1].unpark(last.fd)
}

// park closes a directory to which the walk will come back. If the filesystem has no handles
// (overlayfs), the directory stays open.
func (l *level) park() error {
	if l.fd < 0 {
		return nil
	}
	handle, _, err := unix.NameToHandleAt(l.fd, "", unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("name_to_handle_at", err)
	}
	l.close()
	l.parked = handle
	l.entries.Forget()
	return nil
}

// unpark opens the directory again. on is any open file of the filesystem. A directory that was
// removed meanwhile has nothing more to be changed: on takes its place, at its end.
func (l *level) unpark(on int) error {
	if l.fd >= 0 {
		return nil
	}
	fd, err := unix.OpenByHandleAt(on, l.parked, readDirectory|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) {
		l.entries.End()
		fd, err = unix.FcntlInt(uintptr(on), unix.F_DUPFD_CLOEXEC, 0)
	} else if err == nil {
		err = l.entries.Seek(fd)
	}
	if err != nil {
		return os.NewSyscallError("open_by_handle_at", err)
	}
	l.fd = fd
	return nil
}

// skip counts an entry that cannot be changed because it is gone, is not of the volume, or may not
// be changed (immutable, append-only), and returns all other errors. Where kubelet changes the
// group itself, it ignores all errors of chown(2) and chmod(2).
func skip(name string, err error, n *counts) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP),
		errors.Is(err, unix.ESTALE): // gone, or something else by now
		return nil
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EPERM): // a mount point; immutable
		n.skipped++
		return nil
	default:
		return &os.PathError{Op: "regroup", Path: strconv.Quote(name), Err: err}
	}
}
