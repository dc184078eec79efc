package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

// unmountTries bounds how long a killed process may hold on to a disk.
const unmountTries = 100

// findDisks maps serial numbers to devices: the letters of the devices follow the order in which
// the kernel met them.
func findDisks() (map[string]string, error) {
	files, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return nil, err
	}
	disks := map[string]string{}
	for _, file := range files {
		serial, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		disks[strings.TrimSpace(string(serial))] = "/dev/" + filepath.Base(filepath.Dir(file))
	}
	return disks, nil
}

// mountDisks returns the value of job.DisksEnv.
func mountDisks(wanted []job.Disk, devices map[string]string) (string, error) {
	where := make([]string, 0, len(wanted))
	for _, d := range wanted {
		path := devices[d.Name]
		if path == "" {
			return "", fmt.Errorf("no disk has the serial number %q", d.Name)
		}
		if d.FS != "" {
			dir := filepath.Join(job.DisksDir, d.Name)
			if err := mount(path, dir, d.FS, d.MountData); err != nil {
				return "", err
			}
			path = dir
		}
		where = append(where, d.Name+"="+path)
	}
	if len(where) == 0 {
		return "no=disks", nil // not empty: it also says that this is the machine
	}
	return strings.Join(where, ","), nil
}

// unmountAll ends what the tests have left running, and unmounts every disk: a clean end leaves no
// journal to be replayed.
func unmountAll() error {
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	var err error
	for range unmountTries {
		if err = unmountOnce(); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

func unmountOnce() error {
	infos, err := mountutils.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, info := range slices.Backward(infos) {
		if !strings.HasPrefix(info.Source, "/dev/") {
			continue
		}
		if err := unix.Unmount(info.MountPoint, unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: info.MountPoint, Err: err})
		}
	}
	return errors.Join(errs...)
}
