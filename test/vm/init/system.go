package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// start makes of a bare kernel what a program expects of Linux. Mounts stay private, as in a
// container.
func start() error {
	if err := os.Setenv("PATH", "/vm/bin:/usr/sbin:/usr/bin"); err != nil {
		return err
	}
	for _, m := range []struct{ fstype, target string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"devtmpfs", "/dev"},
		{"devpts", "/dev/pts"},
		{"tmpfs", "/dev/shm"},
		{"tmpfs", "/run"},
	} {
		if err := mount(m.fstype, m.target, m.fstype, ""); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, "/dev/"+link); err != nil {
			return err
		}
	}
	files := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("raise the number of open files: %w", err)
	}
	modules, err := os.ReadFile("/etc/modules")
	if err != nil {
		return err
	}
	return errors.Join(
		command("modprobe", append([]string{"-a"}, strings.Fields(string(modules))...)...),
		command("ip", "link", "set", "lo", "up"),
		command("hostname", "vm"),
	)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

func mount(source, target, fstype, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, 0, data); err != nil {
		return &os.PathError{
			Op:   fmt.Sprintf("mount %s %q (%s) on", fstype, source, data),
			Path: target,
			Err:  err,
		}
	}
	return nil
}
