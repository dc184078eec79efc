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

// world is a temporary directory with all that a run needs: the driver's binary, the disk with the
// pools, and the drivers.
type world struct {
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

// newWorld makes a world. The caller closes it, also after an error.
func newWorld(ctx context.Context, o options) (*world, error) {
	dir, err := os.MkdirTemp(o.parent, "csi-hostpath-bench-")
	if err != nil {
		return &world{}, err
	}
	w := &world{env: o.env, running: map[*process.Process]struct{}{}}
	// The mount table has the names without links.
	if w.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return w, err
	}
	if w.log, err = os.Create(filepath.Join(w.dir, "driver.log")); err != nil {
		return w, err
	}
	if w.binary, err = process.Build(ctx, w.dir); err != nil {
		return w, err
	}
	if w.node, err = newDisk(ctx, "ext4", filepath.Join(w.dir, "node"), 0); err != nil {
		return w, err
	}
	w.disk, err = newDisk(ctx, o.fs, filepath.Join(w.dir, "disk"), o.inodes())
	return w, err
}

// driver starts a driver with one pool and waits until it is ready. It says how long that took. The
// caller ends it with stop.
func (w *world) driver(
	ctx context.Context, poolName string,
) (*process.Process, time.Duration, error) {
	start := time.Now()
	p, err := w.start(ctx, process.Options{
		Dir: w.runDir(poolName), Pools: map[string]string{"default": w.pool(poolName)},
	})
	return p, time.Since(start), err
}

// runDir is where the driver of a pool has its sockets.
func (w *world) runDir(poolName string) string {
	return filepath.Join(w.node.dir, "run-"+poolName)
}

// configured starts a driver that has its pools from a file.
func (w *world) configured(ctx context.Context, dir, config string) (*process.Process, error) {
	return w.start(ctx, process.Options{Dir: dir, Args: []string{"--config", config}})
}

func (w *world) start(ctx context.Context, options process.Options) (*process.Process, error) {
	options.Binary, options.Env, options.Log = w.binary, w.env, w.log
	if err := os.MkdirAll(options.Dir, 0o755); err != nil {
		return nil, err
	}
	p, err := process.StartReady(ctx, options)
	if err != nil {
		return nil, err
	}
	w.running[p] = struct{}{}
	return p, nil
}

// stop ends a driver as an upgrade does.
func (w *world) stop(p *process.Process) error {
	delete(w.running, p)
	return p.Stop()
}

func (w *world) pool(name string) string { return filepath.Join(w.disk.dir, name) }

// close ends the drivers, unmounts and removes everything. Were something still mounted, removing
// would empty it: then it stays.
func (w *world) close() error {
	if w.dir == "" {
		return nil
	}
	var errs []error
	for p := range w.running {
		errs = append(errs, p.Kill())
	}
	errs = append(errs, w.unmountAll())
	if w.log != nil {
		errs = append(errs, w.log.Close())
	}
	if points, err := w.mounts(); err != nil || len(points) > 0 {
		return errors.Join(
			append(errs, err, fmt.Errorf("%s stays, because of the mounts %v", w.dir, points))...)
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

func (w *world) unmountAll() error {
	points, err := w.mounts()
	errs := []error{err}
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: point, Err: err})
		}
	}
	return errors.Join(errs...)
}

// mounts lists what is mounted below the world's directory, the last mounted first.
func (w *world) mounts() ([]string, error) {
	table, err := mount.Table()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range slices.Backward(table) {
		if strings.HasPrefix(m.Point, w.dir+"/") {
			points = append(points, m.Point)
		}
	}
	return points, nil
}
