package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// scene is what the demo plays on: one temporary directory with a pool, a kubelet's directory and
// the driver's binary, socket and log in it.
type scene struct {
	dir    string
	log    *os.File
	binary string
	driver *process.Process
	print  printer
}

func newScene(out io.Writer) (*scene, error) {
	dir, err := os.MkdirTemp("", "csi-hostpath-demo-")
	if err != nil {
		return nil, err
	}
	// The mount table has the names without links.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "driver.log"))
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &scene{dir: dir, log: log, print: printer{out: out, dir: dir}}, nil
}

func (s *scene) pool() string { return filepath.Join(s.dir, "pool") }

// kubelet is the directory that process.Process gives the driver for kubelet's.
func (s *scene) kubelet() string { return filepath.Join(s.dir, "kubelet") }

// start starts the driver and waits until it is ready.
func (s *scene) start(ctx context.Context) (err error) {
	s.driver, err = process.StartReady(ctx, process.Options{
		Binary: s.binary,
		Dir:    s.dir,
		Pools:  map[string]string{"default": s.pool()},
		Log:    s.log,
	})
	return err
}

// kill ends the driver with SIGKILL, if one runs.
func (s *scene) kill() error {
	if s.driver == nil {
		return nil
	}
	err := s.driver.Kill()
	s.driver = nil
	return err
}

// stop ends the driver with SIGTERM.
func (s *scene) stop() error {
	err := s.driver.Stop()
	s.driver = nil
	return err
}

// mounts lists what is mounted below the scene's directory, the last mounted first.
func (s *scene) mounts() ([]string, error) {
	table, err := mount.Table()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range slices.Backward(table) {
		if strings.HasPrefix(m.Point, s.dir+"/") {
			points = append(points, m.Point)
		}
	}
	return points, nil
}

// close ends the driver, unmounts and removes everything. Were something still mounted, removing
// would empty it: then it stays.
func (s *scene) close() error {
	errs := []error{s.kill()}
	points, err := s.mounts()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: point, Err: err})
		}
	}
	if points, err = s.mounts(); err != nil || len(points) > 0 {
		return errors.Join(
			append(errs, err, fmt.Errorf("%s stays, because of the mounts %v", s.dir, points))...)
	}
	return errors.Join(append(errs, s.log.Close(), os.RemoveAll(s.dir))...)
}

// driverLog is the end of the driver's log as an error, to go with the one that it explains.
func (s *scene) driverLog() error {
	content, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err
	}
	const enough = 4 << 10
	return fmt.Errorf("the driver's log ends with:\n%s", content[max(0, len(content)-enough):])
}
