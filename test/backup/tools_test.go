//go:build backup

package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tools makes a root filesystem with this machine's busybox and some of its programs, with the
// libraries that they are linked with.
func tools(ctx context.Context, folder string, programs ...string) error {
	for _, directory := range []string{"bin", "tmp", "etc", "root"} {
		if err := os.MkdirAll(filepath.Join(folder, directory), 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w (install the package busybox-static)", err)
	}
	err = copyFile(busybox, filepath.Join(folder, "bin/busybox"))
	applets, listErr := exec.CommandContext(ctx, busybox, "--list").Output()
	if err := errors.Join(err, listErr); err != nil {
		return err
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		// busybox itself is there already.
		err := os.Symlink("busybox", filepath.Join(folder, "bin", applet))
		if err != nil && !os.IsExist(err) {
			return err
		}
	}
	for _, program := range programs {
		if err := withLibraries(ctx, folder, program); err != nil {
			return err
		}
	}
	return nil
}

// withLibraries copies a program into bin, and its libraries to where the loader looks for them.
func withLibraries(ctx context.Context, folder, program string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("%w (install the packages restic, sqlite3 and attr)", err)
	}
	libraries, err := exec.CommandContext(ctx, "ldd", path).Output()
	if err != nil {
		return err
	}
	target := filepath.Join(folder, "bin", program)
	if err := os.RemoveAll(target); err != nil { // an applet of the same name
		return err
	}
	if err := copyFile(path, target); err != nil {
		return err
	}
	// libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…), or the loader's path alone
	for field := range strings.FieldsSeq(string(libraries)) {
		if filepath.IsAbs(field) {
			if err := copyFile(field, filepath.Join(folder, field)); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyFile makes an executable copy.
func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
