package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// regroupTimes has what each round of giving a large volume to another group came to.
type regroupTimes struct{ publish, kubelet, again, kubeletAgain []float64 }

// regroup publishes a volume of many files for a pod of another group, beside what kubelet does
// with an emptyDir or with a driver that does not set the group itself.
func (b *bench) regroup(ctx context.Context) error {
	p, _, err := b.driver(ctx, "fsgroup")
	if err != nil {
		return err
	}
	s, err := newSockets(p, 1)
	if err != nil {
		return err
	}
	name := volumeName()
	id, err := s.createSized(ctx, name, int64(b.files)*4096, nil) // btrfs counts what files are
	if err != nil {
		return err
	}
	data := filepath.Join(b.pool("fsgroup"), "volumes", name, "data")
	if err := errors.Join(fill(ctx, data, b.files), s.stage(ctx, 0, id)); err != nil {
		return err
	}
	var found regroupTimes
	for range b.rounds {
		if err := b.regroupOnce(ctx, s, id, data, &found); err != nil {
			return err
		}
	}
	b.report.Chapter(
		fmt.Sprintf("NodePublishVolume of %d files of another fsGroup", b.files),
		report.NewRow("call, files of mode 0644; floor: kubelet's own walk", "s",
			found.publish).Beside(found.publish, found.kubelet).RatioAtMost(0.5),
		report.NewRow("call, files of mode 0664; floor: the same", "s",
			found.again).Beside(found.again, found.kubeletAgain),
	)
	return b.stop(p)
}

// regroupOnce gives the volume to four groups in turn.
func (b *bench) regroupOnce(
	ctx context.Context, s sockets, id, data string, found *regroupTimes,
) error {
	byDriver := func(group int) (time.Duration, error) {
		start := time.Now()
		err := s.publishTo(ctx, id, group)
		return time.Since(start), err
	}
	byKubelet := func(group int) (time.Duration, error) {
		if err := s.publish(ctx, 0, id); err != nil { // for a pod without a group
			return 0, err
		}
		start := time.Now()
		err := walkAsKubelet(s.target(0), group)
		return time.Since(start), err
	}
	for _, side := range []struct {
		change  func(group int) (time.Duration, error)
		group   int
		prepare func(data string) error
		times   *[]float64
	}{
		{byDriver, 2000, resetModes, &found.publish},
		{byDriver, 2001, keepModes, &found.again},
		{byKubelet, 3000, resetModes, &found.kubelet},
		{byKubelet, 3001, keepModes, &found.kubeletAgain},
	} {
		if err := errors.Join(side.prepare(data), b.disk.settle()); err != nil {
			return err
		}
		took, err := side.change(side.group)
		if err != nil {
			return err
		}
		*side.times = append(*side.times, took.Seconds())
		err = errors.Join(checkGroup(data, b.files, side.group), s.unpublish(ctx, 0, id))
		if err != nil {
			return err
		}
	}
	return nil
}

func keepModes(string) error { return nil }

func (s sockets) publishTo(ctx context.Context, id string, group int) error {
	access := mounted("")
	access.GetMount().VolumeMountGroup = strconv.Itoa(group)
	_, err := s.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          id,
		StagingTargetPath: s.staging(0),
		TargetPath:        s.target(0),
		VolumeCapability:  access,
	})
	return err
}

// walkAsKubelet does what changePermissionsRecursively of Kubernetes pkg/volume/volume_linux.go
// does: directories are read as a whole and not sorted, and come after what they hold.
func walkAsKubelet(path string, group int) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := walkEntriesAsKubelet(path, group); err != nil {
			return err
		}
	}
	if err := os.Lchown(path, -1, group); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	mask := fs.FileMode(0o660)
	if info.IsDir() {
		mask |= fs.ModeSetgid | 0o110
	}
	return os.Chmod(path, info.Mode()|mask)
}

func walkEntriesAsKubelet(path string, group int) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, name := range names {
		if err := walkAsKubelet(filepath.Join(path, name), group); err != nil {
			return err
		}
	}
	return nil
}

// resetModes makes the modes those that pods give with the umask 022.
func resetModes(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.Chmod(path, 0o755) //nolint:gosec // the tree is the bench's own
		default:
			return os.Chmod(path, 0o644) //nolint:gosec // as above
		}
	})
}

// checkGroup looks at the last file.
func checkGroup(data string, files, group int) error {
	last := files - 1
	path := filepath.Join(data, strconv.Itoa(last/1000), strconv.Itoa(last%1000))
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if int(st.Gid) != group || st.Mode&0o777 != 0o664 {
		return fmt.Errorf("%s has group %d and mode %o, want %d and 0664", path, st.Gid, st.Mode, group)
	}
	return nil
}
