package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// needed maps each program that the machine cannot do without to its Debian package.
var needed = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86",
	"busybox":            "busybox-static",
	"mkfs.ext4":          "e2fsprogs",
	"mkfs.xfs":           "xfsprogs",
	"mkfs.btrfs":         "btrfs-progs",
	"dmsetup":            "dmsetup",
	"ldd":                "libc-bin",
}

// ensurePackages installs what is missing.
func ensurePackages(ctx context.Context, logf Logf) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w: the kernel is for amd64, this is %s", ErrUnavailable, runtime.GOARCH)
	}
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	remedy := "apt-get install " + strings.Join(missing, " ")
	if err := canInstall(); err != nil {
		return fmt.Errorf("%w: %w: run %q", ErrUnavailable, err, remedy)
	}
	logf("vm: installing %s", strings.Join(missing, " "))
	if err := installing(
		ctx,
		append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...),
	); err != nil {
		return fmt.Errorf("%s: %w", remedy, err)
	}
	if missing = missingPackages(); len(missing) > 0 {
		return fmt.Errorf("installed, but some programs are still not found; packages: %s",
			strings.Join(missing, " "))
	}
	return nil
}

func missingPackages() []string {
	var missing []string
	for program, pkg := range needed {
		if _, err := lookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	return missing
}

func canInstall() error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("only Debian's way to install is known")
	}
	if os.Geteuid() != 0 {
		return errors.New("installing needs root")
	}
	return nil
}

// installing runs apt-get, and once more after an update: the lists may be absent or old, and only
// then are they worth fetching.
func installing(ctx context.Context, args []string) error {
	if aptGet(ctx, args...) == nil {
		return nil
	}
	if err := aptGet(ctx, "update", "-qq"); err != nil {
		return err
	}
	return aptGet(ctx, args...)
}

func aptGet(ctx context.Context, args ...string) error {
	_, err := output(ctx, "", []string{"DEBIAN_FRONTEND=noninteractive"},
		"apt-get", append([]string{"-o", "DPkg::Lock::Timeout=300"}, args...)...)
	return err
}

// lookPath looks in /usr/sbin too, which `su` leaves out of PATH.
func lookPath(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", program))
}

// output runs a program in dir (empty: here) with env added, and returns what it printed to its
// standard output. The error has what it said besides.
func output(
	ctx context.Context, dir string, env []string, name string, args ...string,
) ([]byte, error) {
	path, err := lookPath(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, said.String(), out)
	}
	return out, nil
}
