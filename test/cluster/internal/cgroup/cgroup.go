// Package cgroup makes and removes the control groups that the cluster's
// processes run in, on cgroup v1, hybrid and v2 machines.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where every distribution mounts the hierarchies.
const Root = "/sys/fs/cgroup"

// Hierarchies returns the folder of each mounted hierarchy: the only one on a
// v2 machine, one per controller set (and "unified") on a v1 or hybrid one.
func Hierarchies() ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(Root, &st); err != nil {
		return nil, fmt.Errorf("statfs %s: %w (mount the cgroup filesystem there)", Root, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{Root}, nil
	}
	entries, err := os.ReadDir(Root)
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, entry := range entries {
		// Links such as "cpu" → "cpu,cpuacct" name a hierarchy a second time.
		if entry.IsDir() {
			folders = append(folders, filepath.Join(Root, entry.Name()))
		}
	}
	return folders, nil
}

// Create makes the group path (relative, slash separated) in every hierarchy.
// An existing group is kept.
func Create(path string) error {
	hierarchies, err := Hierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range hierarchies {
		if err := createIn(hierarchy, path); err != nil {
			return fmt.Errorf("create control group %s: %w", path, err)
		}
	}
	return nil
}

func createIn(hierarchy, path string) error {
	folder := hierarchy
	for name := range strings.SplitSeq(path, "/") {
		if err := delegateControllers(folder); err != nil {
			return err
		}
		parent := folder
		folder = filepath.Join(folder, name)
		if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := inheritCPUSet(parent, folder); err != nil {
			return err
		}
	}
	return nil
}

// delegateControllers lets the children of a v2 group use the controllers it
// has. A v1 group has no such file.
func delegateControllers(folder string) error {
	available, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(available)) {
		file := filepath.Join(folder, "cgroup.subtree_control")
		if err := os.WriteFile(file, []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("enable controller %s in %s: %w", controller, folder, err)
		}
	}
	return nil
}

// inheritCPUSet fills a v1 cpuset, which starts empty and refuses processes
// until both files are set (cgroup-v1/cpusets documentation).
func inheritCPUSet(parent, child string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		if _, err := os.Stat(filepath.Join(child, "cgroup.controllers")); err == nil {
			return nil
		}
		value, err := os.ReadFile(filepath.Join(parent, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, name), value, 0); err != nil {
			return err
		}
	}
	return nil
}

// Join moves the calling process into the group in every hierarchy.
func Join(path string) error {
	hierarchies, err := Hierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range hierarchies {
		file := filepath.Join(hierarchy, path, "cgroup.procs")
		// 0 is the writer itself, in whatever PID namespace it is.
		if err := os.WriteFile(file, []byte("0"), 0); err != nil {
			return fmt.Errorf("join control group %s: %w", path, err)
		}
	}
	return nil
}

// Remove removes the group and all groups below it in every hierarchy. Their
// processes must have ended; a group that is still emptying is waited for.
func Remove(path string) error {
	hierarchies, err := Hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, hierarchy := range hierarchies {
		if err := removeTree(filepath.Join(hierarchy, path)); err != nil {
			errs = append(errs, fmt.Errorf("remove control group %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

func removeTree(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if err := removeTree(filepath.Join(folder, entry.Name())); err != nil {
			return err
		}
	}
	return removeEmptying(folder)
}

func removeEmptying(folder string) error {
	var err error
	for range 100 {
		err = unix.Rmdir(folder)
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: folder, Err: err}
	}
	return nil
}
