// Package fsgroup gives a published volume to the group of its pod (CSI's volume_mount_group,
// Kubernetes' fsGroup): the root, and what another group has left in it.
package fsgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/job"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/pkg/workers"
)

// Groups gives the volumes of a pool to groups. The methods may be called concurrently.
type Groups struct {
	jobs    *job.Jobs[*Progress]
	yielder workers.Yielder
}

// Start returns Groups whose jobs end with the context, or with Close. The jobs give way to the
// yielder's calls.
func Start(ctx context.Context, yielder workers.Yielder) *Groups {
	return &Groups{
		jobs: job.Start(ctx, job.Kind[*Progress]{
			Noun: "change of a volume's group", NewProgress: func() *Progress { return &Progress{} },
		}),
		yielder: yielder,
	}
}

// Close ends the jobs and waits for them. The next publication goes on.
func (g *Groups) Close() { g.jobs.Close() }

// Stop ends the job of a volume, if there is one, and waits until it has ended: it has the volume's
// filesystem open. Errors: ErrBusy when it has not ended before the context.
func (g *Groups) Stop(ctx context.Context, id volume.ID) error { return g.jobs.Stop(ctx, key(id)) }

func key(id volume.ID) string { return "the group of volume " + id.String() }

// Request is a volume and the group of a pod.
type Request struct {
	ID volume.ID
	// Data is what the pod is to see: a directory, a file, or the mounted root of an image. The
	// caller closes it.
	Data  *os.File
	Group volume.Group
	// Lock keeps others from copying or deleting the volume meanwhile, until unlock.
	Lock func() (unlock func(), err error)
}

// Set lets a group read and write a volume. What is made in a directory from then on is the group's
// too (setgid). If the root already has the group, only the root is looked at. Otherwise all that
// the volume holds gets the group and its rights, as kubelet would give them, in a job that
// outlives the context: the same call joins it. The root gets the group last, so that the next call
// goes on after a crash. The record does not change: the next publication says whose turn it is.
//
// The root is not durable, because after a power cut the publication is repeated. What the volume
// holds is on the disk no later than the root.
//
// Errors: ErrUnavailable when the filesystem has become read-only; ErrNoSpace; ErrBusy while the
// job goes on, while the volume is copied, and while another group gets it.
func (g *Groups) Set(ctx context.Context, r Request) error {
	if !r.Group.Given {
		return nil
	}
	err := g.set(ctx, r)
	switch {
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: group %d cannot be given the volume: its filesystem is mounted read-only",
			volume.ErrUnavailable, r.Group.ID)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: give group %d the volume: %w", volume.ErrNoSpace, r.Group.ID, err)
	case err != nil:
		return fmt.Errorf("give group %d the volume: %w", r.Group.ID, err)
	default:
		return nil
	}
}

func (g *Groups) set(ctx context.Context, r Request) error {
	st, err := stat(int(r.Data.Fd()))
	if err != nil {
		return err
	}
	if st.group == r.Group.ID || st.fileType() != unix.S_IFDIR {
		return giveRoot(r.Data, st, r.Group)
	}
	d, err := openat.Dir{File: r.Data}.OpenDir(".")
	if err != nil {
		return err
	}
	if isEmpty(d) {
		return errors.Join(giveRoot(r.Data, st, r.Group), d.Close())
	}
	_, begun, err := job.RunOwning(ctx, g.jobs, key(r.ID), r.Group,
		func(ctx context.Context, progress *Progress) (struct{}, error) {
			defer d.Close()
			return struct{}{}, g.regroup(ctx, d, r, progress)
		})
	if !begun {
		err = errors.Join(err, d.Close())
	}
	return err
}

// isEmpty leaves the position at the beginning. In doubt the directory is walked.
func isEmpty(d openat.Dir) bool {
	var entries openat.EntryReader
	_, err := entries.Next(d.FD())
	_, seekErr := unix.Seek(d.FD(), 0, io.SeekStart)
	return errors.Is(err, io.EOF) && seekErr == nil
}

// regroup gives the group what the directory holds, and then the directory.
func (g *Groups) regroup(ctx context.Context, d openat.Dir, r Request, progress *Progress) error {
	unlock, err := r.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := g.regroupContent(ctx, d, r.Group, progress); err != nil {
		return err
	}
	failpoint.Here("publish.regrouped")
	if err := syncContent(d); err != nil {
		return err
	}
	st, err := stat(d.FD())
	if err != nil {
		return err
	}
	return giveRoot(d.File, st, r.Group)
}

// regroupContent keeps its priority, as kubelet's own walk does: a pod's start waits for it.
func (g *Groups) regroupContent(
	ctx context.Context, d openat.Dir, group volume.Group, progress *Progress,
) error {
	crew, err := workers.Start(ctx, workers.Options{Number: workers.Default(), Yielder: g.yielder})
	if err != nil {
		return err
	}
	defer crew.Close()
	fd, err := unix.FcntlInt(d.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	defer runtime.KeepAlive(d)
	w := regrouper{Group: crew, group: group, progress: progress}
	w.walk(fd, 0)
	w.trees.Wait()
	return w.Stopped()
}

// syncContent makes the changes below a directory durable. On a filesystem whose metadata goes
// through one journal in order, the root's change comes after them anyway.
func syncContent(d openat.Dir) error {
	ordered, err := backend.HasOrderedJournal(d.File)
	if err != nil || ordered {
		return err
	}
	return os.NewSyscallError("syncfs", unix.Syncfs(d.FD()))
}

// state is what statx(2) says of an open file.
type state struct {
	mode    uint32 // file type and permissions
	group   uint32
	isMount bool // it is the root of a mount
}

// fileType is S_IFDIR, S_IFREG and so on.
func (s state) fileType() uint32 { return s.mode & unix.S_IFMT }

// volumeType is the type of a volume with such a root.
func (s state) volumeType() volume.Type {
	if s.fileType() == unix.S_IFDIR {
		return volume.DirectoryOrCreate
	}
	return volume.FileOrCreate
}

func stat(fd int) (state, error) {
	var st unix.Statx_t
	const fields = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_GID
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, fields, &st); err != nil {
		return state{}, os.NewSyscallError("statx", err)
	}
	return state{
		mode:    uint32(st.Mode),
		group:   st.Gid,
		isMount: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
	}, nil
}

// giveRoot gives a group a volume's root.
func giveRoot(f *os.File, st state, g volume.Group) error {
	fd := int(f.Fd())
	if _, err := give(fd, st, g, g.Mode(st.volumeType(), st.mode&^unix.S_IFMT)); err != nil {
		return err
	}
	_, err := admitInACL(fd, g.Mode(st.volumeType(), 0)>>groupShift)
	return err
}

// groupShift is where the group's rights are in a mode.
const groupShift = 3

// give gives a file, which may be an O_PATH descriptor, a group and a mode. It changes nothing that
// is right already, and returns whether anything was wrong.
func give(fd int, st state, g volume.Group, mode uint32) (changed bool, err error) {
	if st.group != g.ID {
		if err := unix.Fchownat(fd, "", -1, int(g.ID), unix.AT_EMPTY_PATH); err != nil {
			return false, os.NewSyscallError("fchownat", err)
		}
		changed = true
	}
	if st.fileType() == unix.S_IFLNK { // it has no rights
		return changed, nil
	}
	// Mode after owner: chown(2) takes set-ID bits from a file.
	const setID = unix.S_ISUID | unix.S_ISGID
	if was := st.mode &^ unix.S_IFMT; was != mode || changed && mode&setID != 0 {
		if err := openat.ChmodFD(fd, mode); err != nil {
			return changed, os.NewSyscallError("chmod", err)
		}
		changed = true
	}
	return changed, nil
}
