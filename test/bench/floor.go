package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
)

// floor goes through cycles by the system calls alone that make a volume durable, visible and gone
// again: no driver can be faster that keeps the same promises.
type floor struct {
	tmp, volumes, trash int
	// one fsync does where else several are needed: backend.HasOrderedJournal
	ordered bool
	targets string
}

// newFloor prepares a tree like a pool's. The caller closes it.
func newFloor(dir, targets string) (*floor, error) {
	f := &floor{targets: targets}
	for name, fd := range map[string]*int{"tmp": &f.tmp, "volumes": &f.volumes, "trash": &f.trash} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, err
		}
		var err error
		if *fd, err = unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return nil, err
		}
	}
	var err error
	if f.ordered, err = hasOrderedJournal(dir); err != nil {
		return nil, err
	}
	return f, os.MkdirAll(targets, 0o750)
}

func hasOrderedJournal(path string) (bool, error) {
	d, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer d.Close()
	return backend.HasOrderedJournal(d)
}

func (f *floor) close() error {
	return errors.Join(unix.Close(f.tmp), unix.Close(f.volumes), unix.Close(f.trash))
}

func (f *floor) cycle(_ context.Context, client int, name string) (laps, error) {
	target := filepath.Join(f.targets, strconv.Itoa(client))
	steps := []struct {
		step step
		do   func() error
	}{
		{create, func() error { return f.create(name) }},
		{publish, func() error { return f.publish(name, target) }},
		{write, func() error { return writeAsPod(target) }},
		{stats, func() error { var st unix.Statfs_t; return unix.Statfs(target, &st) }},
		{
			unpublish,
			func() error {
				return errors.Join(unix.Unmount(target, unix.UMOUNT_NOFOLLOW), unix.Rmdir(target))
			},
		},
		{remove, func() error { return f.remove(name) }},
		{purge, func() error { return f.purge(name) }},
	}
	w := startWatch()
	for _, s := range steps {
		if err := s.do(); err != nil {
			return laps{}, &os.PathError{Op: "floor: " + s.step.String(), Path: name, Err: err}
		}
		w.lap(s.step)
	}
	return w.laps, nil
}

// record is as long as the driver's.
var record = make([]byte, 320)

func (f *floor) create(name string) error {
	if err := unix.Mkdirat(f.tmp, name, 0o700); err != nil {
		return err
	}
	d, err := unix.Openat(f.tmp, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	if err := unix.Mkdirat(d, "data", 0o755); err != nil {
		return err
	}
	data, err := unix.Openat(d, "data", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(data)
	if err := errors.Join(
		unix.Fchown(data, 0, 0),
		unix.Fchmod(data, 0o755),
		writeRecord(d),
	); err != nil {
		return err
	}
	if !f.ordered {
		if err := errors.Join(unix.Fsync(data), unix.Fsync(d)); err != nil {
			return err
		}
	}
	return errors.Join(unix.Renameat2(f.tmp, name, f.volumes, name, unix.RENAME_NOREPLACE),
		unix.Fsync(f.volumes))
}

func writeRecord(dir int) error {
	fd, err := unix.Openat(dir, "volume.json", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC,
		0o600)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, record)
	return errors.Join(err, unix.Fsync(fd), unix.Close(fd))
}

func (f *floor) publish(name, target string) error {
	source, err := unix.Openat(f.volumes, name+"/data", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	if err := unix.Mkdir(target, 0o750); err != nil {
		return err
	}
	tree, err := unix.OpenTree(source, "",
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	return errors.Join(unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr),
		unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func (f *floor) remove(name string) error {
	if err := unix.Renameat2(f.volumes, name, f.trash, name, unix.RENAME_NOREPLACE); err != nil ||
		f.ordered {
		return errors.Join(err, unix.Fsync(f.volumes))
	}
	return errors.Join(unix.Fsync(f.trash), unix.Fsync(f.volumes))
}

func (f *floor) purge(name string) error {
	return errors.Join(unix.Unlinkat(f.trash, name+"/data/data", 0),
		unix.Unlinkat(f.trash, name+"/data", unix.AT_REMOVEDIR),
		unix.Unlinkat(f.trash, name+"/volume.json", 0), unix.Unlinkat(f.trash, name, unix.AT_REMOVEDIR))
}
