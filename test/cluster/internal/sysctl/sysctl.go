// Package sysctl raises the kernel settings that clusters need, and remembers those
// that change for the whole machine, so that they can be put back when the cluster
// goes.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// inotifyInstances limits what all processes of a user may have at once (inotify(7)). Each machine
	// has some dozens: kubelet, containerd, and programs in pods. Beyond it they fail with EMFILE.
	inotifyInstances = "fs/inotify/max_user_instances"
	// leastInotifyInstances are enough for several clusters. The kernel's default is 128.
	leastInotifyInstances = 1024
)

// names are inotifyInstances, and those that the kubelet sets at start (k8s.io/kubernetes
// pkg/kubelet/cm, setupKernelTunables).
var names = []string{
	inotifyInstances,
	"vm/overcommit_memory",
	"vm/panic_on_oom",
	"kernel/panic",
	"kernel/panic_on_oops",
	"kernel/keys/root_maxkeys",
	"kernel/keys/root_maxbytes",
}

// Save reads the present values. A setting this kernel lacks is left out.
func Save() (map[string]string, error) {
	values := make(map[string]string)
	for _, name := range names {
		value, err := os.ReadFile(file(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read kernel setting %s: %w", name, err)
		}
		values[name] = strings.TrimSpace(string(value))
	}
	return values, nil
}

// Restore writes values that Save returned; it writes no other setting.
func Restore(values map[string]string) error {
	var errs []error
	for name, value := range values {
		if !slices.Contains(names, name) {
			errs = append(errs,
				fmt.Errorf("restore kernel setting %s: not one that the cluster changes", name))
			continue
		}
		if err := os.WriteFile(file(name), []byte(value), 0); err != nil {
			errs = append(errs, fmt.Errorf("restore kernel setting %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Raise raises what is too low for several clusters, and says so through progress.
func Raise(progress func(format string, args ...any)) error {
	err := raise(file(inotifyInstances), leastInotifyInstances, progress)
	if errors.Is(err, fs.ErrNotExist) { // a kernel without inotify
		return nil
	}
	return err
}

func raise(path string, least int, progress func(format string, args ...any)) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("raise a kernel setting: %w", err)
	}
	old, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("raise %s: %w", path, err)
	}
	if old >= least {
		return nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(least)), 0o600); err != nil {
		return fmt.Errorf("raise a kernel setting: %w", err)
	}
	progress("raised %s from %d to %d, until the last cluster is down", path, old, least)
	return nil
}

func file(name string) string { return filepath.Join("/proc/sys", name) }
