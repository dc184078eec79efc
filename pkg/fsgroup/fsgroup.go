// Package fsgroup gives a published volume to the group of its pod (CSI's volume_mount_group,
// Kubernetes' fsGroup).
package fsgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Set lets a group read and write the root of a volume's data, as Data or the mount of an
// image gives it. What is made in a directory from then on is the group's too (setgid); what is
// there already stays as it is, for the cost must not grow with it. The record does not change: the
// next publication says whose turn it is. Not durable, because after a power cut it is repeated
// with the publication. Errors: ErrUnavailable when the filesystem has become read-only.
func Set(ctx context.Context, data *os.File, g volume.Group) error {
	if !g.Given {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(data.Fd()), &st); err != nil {
		return fmt.Errorf("stat of %s: %w", data.Name(), err)
	}
	if st.Gid != g.ID {
		warnOfOtherGroups(ctx, data, st.Gid, g)
	}
	err := give(data, st, g)
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w: group %d cannot be given the volume: its filesystem is mounted read-only",
			volume.ErrUnavailable, g.ID)
	}
	if err != nil {
		return fmt.Errorf("give group %d the volume: %w", g.ID, err)
	}
	return nil
}

// groupShift is where the group's rights are in a mode.
const groupShift = 3

// give changes nothing that is right already.
func give(f *os.File, st unix.Stat_t, g volume.Group) error {
	mode := g.Mode(typeOf(st), st.Mode&^unix.S_IFMT)
	if st.Gid != g.ID {
		err := unix.Fchownat(int(f.Fd()), "", -1, int(g.ID), unix.AT_EMPTY_PATH)
		if err != nil {
			return os.NewSyscallError("fchownat", err)
		}
	}
	// Mode after owner: chown(2) clears set-ID bits. fchmod(2) takes no O_PATH descriptor.
	if st.Gid != g.ID || st.Mode&^unix.S_IFMT != mode {
		if err := unix.Chmod(openat.Path(f), mode); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	_, err := admitInACL(openat.Path(f), g.Mode(typeOf(st), 0)>>groupShift)
	return err
}

func typeOf(st unix.Stat_t) volume.Type {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return volume.DirectoryOrCreate
	}
	return volume.FileOrCreate
}

// warnOfOtherGroups logs a warning when a volume gets another group and has entries of the old
// group.
func warnOfOtherGroups(ctx context.Context, data *os.File, was uint32, g volume.Group) {
	d, err := openat.Dir{File: data}.OpenDir(".")
	if err != nil { // a file has nothing in it
		return
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); !errors.Is(err, io.EOF) {
		klog.FromContext(ctx).Info(
			"A volume gets another group; what it holds keeps its own: chgrp -R it once if the pod must write there",
			"wasGroup", was, "group", g.ID)
	}
}
