package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// fixture is a temporary directory with all that a run needs: the driver's binary, the disk with
// the pools, and the drivers.
type fixture struct {
	dir    string
	binary string
	disk   disk
	// node has the kubelet's directories. Whatever this machine has, it is a disk as a node has it,
	// of ext4 with a journal: without one, a new target is looked for among all inodes that were
	// freed in the last minutes, and a removed one may wait for the disk's discard.
	node    disk
	log     *os.File
	env     []string
	running map[*process.Process]struct{}
}

// newFixture makes a fixture. The caller closes it, also after an error.
func newFixture(ctx context.Context, o options) (*fixture, error) {
	dir, err := os.MkdirTemp(o.parent, "csi-hostpath-bench-")
	if err != nil {
		return &fixture{}, err
	}
	f := &fixture{env: o.env, running: map[*process.Process]struct{}{}}
	// The mount table has the names without links.
	if f.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return f, err
	}
	if f.log, err = os.Create(filepath.Join(f.dir, "driver.log")); err != nil {
		return f, err
	}
	if f.binary, err = process.Build(ctx, f.dir); err != nil {
		return f, err
	}
	if f.node, err = newDisk(ctx, "ext4", filepath.Join(f.dir, "node"), 0); err != nil {
		return f, err
	}
	f.disk, err = newDisk(ctx, o.fs, filepath.Join(f.dir, "disk"), o.inodes())
	return f, err
}

// driver starts a driver with one pool and waits until it is ready. It says how long that took. The
// caller ends it with stop.
func (f *fixture) driver(
	ctx context.Context, poolName string,
) (*process.Process, time.Duration, error) {
	start := time.Now()
	p, err := f.start(ctx, process.Options{
		Dir: f.runDir(poolName), Pools: map[string]string{"default": f.pool(poolName)},
	})
	return p, time.Since(start), err
}

// runDir is where the driver of a pool has its sockets.
func (f *fixture) runDir(poolName string) string {
	return filepath.Join(f.node.dir, "run-"+poolName)
}

// configured starts a driver that has its pools from a file.
func (f *fixture) configured(ctx context.Context, dir, config string) (*process.Process, error) {
	return f.start(ctx, process.Options{Dir: dir, Args: []string{"--config", config}})
}

func (f *fixture) start(ctx context.Context, options process.Options) (*process.Process, error) {
	options.Binary, options.Env, options.Log = f.binary, f.env, f.log
	if err := os.MkdirAll(options.Dir, 0o755); err != nil {
		return nil, err
	}
	p, err := process.StartReady(ctx, options)
	if err != nil {
		return nil, err
	}
	f.running[p] = struct{}{}
	return p, nil
}

// stop ends a driver as an upgrade does.
func (f *fixture) stop(p *process.Process) error {
	delete(f.running, p)
	return p.Stop()
}

func (f *fixture) pool(name string) string { return filepath.Join(f.disk.dir, name) }

// close ends the drivers, unmounts and removes everything. Were something still mounted, removing
// would empty it: then it stays.
func (f *fixture) close() error {
	if f.dir == "" {
		return nil
	}
	var errs []error
	for p := range f.running {
		errs = append(errs, p.Kill())
	}
	errs = append(errs, f.unmountAll())
	if f.log != nil {
		errs = append(errs, f.log.Close())
	}
	if points, err := f.mounts(); err != nil || len(points) > 0 {
		return errors.Join(
			append(errs, err, fmt.Errorf("%s stays, because of the mounts %v", f.dir, points))...)
	}
	return errors.Join(append(errs, os.RemoveAll(f.dir))...)
}

func (f *fixture) unmountAll() error {
	points, err := f.mounts()
	errs := []error{err}
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: point, Err: err})
		}
	}
	return errors.Join(errs...)
}

// mounts lists what is mounted below the fixture's directory, the last mounted first.
func (f *fixture) mounts() ([]string, error) {
	table, err := mount.Table()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range slices.Backward(table) {
		if strings.HasPrefix(m.Point, f.dir+"/") {
			points = append(points, m.Point)
		}
	}
	return points, nil
}
