// Package sysctl remembers the kernel settings that a kubelet changes for the
// whole machine, so that they can be put back when the cluster goes.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// names are those that the kubelet sets at start (k8s.io/kubernetes
// pkg/kubelet/cm, setupKernelTunables).
var names = []string{
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

func file(name string) string { return filepath.Join("/proc/sys", name) }
