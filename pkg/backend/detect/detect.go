// Package detect finds the backend that fits the filesystem of a directory. To support another kind
// of filesystem, add it here.
package detect

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/btrfs"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/plain"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/projquota"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Options is what a pool wants of its filesystem's quotas.
type Options struct {
	// RequireQuota refuses a filesystem that does not enforce sizes.
	RequireQuota bool
	// IgnoreQuota makes volumes without limits, and removes the limits of those that have one.
	IgnoreQuota bool
}

// Backend returns the backend for the filesystem of a directory. On btrfs it turns quotas on, if
// they are not ignored. The directory stays open while the backend is used, and the caller closes
// it. Errors: ErrUnavailable when the quotas cannot be used, or are required and absent.
func Backend(ctx context.Context, root openat.Dir, opts Options) (backend.Backend, error) {
	b, err := open(ctx, root, opts)
	if err == nil && opts.RequireQuota && !b.Enforces() {
		return nil, volume.Because(volume.ReasonNoQuota, fmt.Errorf(
			"%w: quota is required, and its filesystem enforces none: mount XFS or ext4 with prjquota, or use btrfs",
			volume.ErrUnavailable,
		))
	}
	return b, err
}

func open(ctx context.Context, root openat.Dir, opts Options) (backend.Backend, error) {
	subvolumes, projects := btrfs.Enforce, projquota.Enforce
	if opts.IgnoreQuota {
		subvolumes, projects = btrfs.Lift, projquota.Lift
	}
	b, ok, err := btrfs.Open(klog.FromContext(ctx), root.File, subvolumes)
	if ok || err != nil {
		return b, err
	}
	q, ok, err := projquota.Open(root.File, projects)
	if ok || err != nil {
		return q, err
	}
	return plain.Plain{}, nil
}

// Volatile returns the kind of a directory's filesystem if the filesystem loses everything at a
// reboot, or with the container that it belongs to; else "".
func Volatile(d openat.Dir) (string, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.FD(), &st); err != nil {
		return "", &os.PathError{Op: "statfs", Path: d.Name(), Err: err}
	}
	return map[int64]string{
		unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	}[st.Type], nil
}
