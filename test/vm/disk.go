package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

// workSize is of the disk that holds the tests and their temporary files. It is sparse: what is not
// written costs nothing.
const workSize = 8 << 30

// Disk is a disk of the machine: a sparse image, written to through this machine's cache without a
// flush, which is fast and lasts as long as this machine does.
type Disk struct {
	// Name is how tests ask for it, at most 20 letters (a virtio serial number's length); empty:
	// FS.
	Name string
	// FS is what it is formatted with and mounted as: ext4, xfs or btrfs; empty: it stays raw.
	FS string
	// Size is in bytes; 0: disks.DefaultSize.
	Size int64
	// ProjectQuota turns project quotas on, in the filesystem and at its mount.
	ProjectQuota bool
	// MkfsArgs are further arguments of mkfs.
	MkfsArgs []string
	// MountData is the filesystem's own part of the mount options. An ext4 or XFS disk with
	// ProjectQuota has prjquota there.
	MountData string
}

// attached is a disk that has been made.
type attached struct {
	job.Disk

	image string
}

func makeDisks(ctx context.Context, wanted []Disk, dir string) ([]attached, error) {
	var all []attached
	names := map[string]bool{job.WorkSerial: true}
	for _, d := range wanted {
		if d.Name == "" {
			d.Name = d.FS
		}
		if d.Name == "" || len(d.Name) > 20 || names[d.Name] {
			return nil, fmt.Errorf("disk %q: want a name of its own, of at most 20 letters", d.Name)
		}
		names[d.Name] = true
		made, err := makeDisk(ctx, d, filepath.Join(dir, "disk-"+d.Name+".img"))
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Name, err)
		}
		all = append(all, made)
	}
	return all, nil
}

func makeDisk(ctx context.Context, d Disk, image string) (attached, error) {
	size := d.Size
	if size == 0 {
		size = disks.DefaultSize
	}
	made := attached{Disk: job.Disk{Name: d.Name, FS: d.FS, MountData: d.MountData}, image: image}
	if err := sparse(image, size); err != nil || d.FS == "" {
		return made, err
	}
	program, args := disks.Mkfs(d.FS)
	if program == "" {
		return made, fmt.Errorf("filesystem %q is none of %v", d.FS, disks.Types())
	}
	if d.ProjectQuota {
		quotaArgs, data := disks.ProjectQuotaArgs(d.FS)
		if data == "" {
			return made, fmt.Errorf("%s has no project quotas", d.FS)
		}
		args = append(args, quotaArgs...)
		made.MountData = joinData(d.MountData, data)
	}
	_, err := output(ctx, "", nil, program, append(append(args, d.MkfsArgs...), image)...)
	return made, err
}

func joinData(a, b string) string {
	if a == "" {
		return b
	}
	return a + "," + b
}

func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// makeWorkDisk makes an ext4 with what is in dir.
func makeWorkDisk(ctx context.Context, dir, image string) error {
	if err := sparse(image, workSize); err != nil {
		return err
	}
	// Nothing on it has to outlive a power cut.
	_, err := output(ctx, "", nil, "mkfs.ext4", "-q", "-F", "-E", "nodiscard,root_owner=0:0", "-O",
		"^has_journal", "-d", dir, image)
	return err
}
