package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// initPackage is the guest's first process. Its whole path works in every module that requires this
// one.
const initPackage = "github.com/csi-hostpath/csi-hostpath/test/vm/init"

// tools are copied into every guest from this machine, with their libraries, where this machine has
// them. For everything else there is busybox.
var tools = []string{
	"mkfs.ext4",
	"e2fsck",
	"fsck.ext4",
	"resize2fs",
	"tune2fs",
	"debugfs",
	"e2label",
	"mkfs.xfs",
	"xfs_repair",
	"xfs_growfs",
	"xfs_db",
	"xfs_io",
	"mkfs.btrfs",
	"btrfs",
	"blkid",
	"blockdev",
	"dmsetup",
	"fsck",
	"mount",
	"umount",
	"losetup",
	"findmnt",
	"strace",
}

// The guest's directories, merged as Debian's are.
var (
	guestDirs = []string{
		"usr/bin",
		"usr/sbin",
		"usr/lib",
		"usr/lib64",
		"dev",
		"proc",
		"sys",
		"run",
		"tmp",
		"etc",
		"root",
		"var/lib",
		"vm",
		"disks",
	}
	guestLinks = map[string]string{
		"bin":      "usr/bin",
		"sbin":     "usr/sbin",
		"lib":      "usr/lib",
		"lib64":    "usr/lib64",
		"etc/mtab": "../proc/self/mounts",
	}
	guestFiles = map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
		"etc/hosts":  "127.0.0.1 localhost\n",
		"etc/fstab":  "", // mount(8) and fsck(8) complain without one
	}
)

// buildInitrd makes the archive that the kernel unpacks into the guest's root directory.
func buildInitrd(ctx context.Context, k kernel, moreTools []string, dir string) (string, error) {
	root := filepath.Join(dir, "root")
	if err := makeSkeleton(root); err != nil {
		return "", err
	}
	for _, add := range []func() error{
		func() error { return addBusybox(ctx, root) },
		func() error { return addTools(ctx, slices.Concat(atHand(tools), moreTools), root) },
		func() error { return addModules(k, root) },
		func() error { return goBuild(ctx, nil, filepath.Join(root, "init"), initPackage) },
	} {
		if err := add(); err != nil {
			return "", fmt.Errorf("build the guest's root: %w", err)
		}
	}
	archive := filepath.Join(dir, "initrd")
	_, err := output(ctx, root, []string{"ARCHIVE=" + archive}, "busybox", "sh", "-ec",
		`busybox find . | busybox cpio -o -H newc -R 0:0 >"$ARCHIVE"`)
	return archive, errors.Join(err, os.RemoveAll(root))
}

func makeSkeleton(root string) error {
	var errs []error
	for _, dir := range guestDirs {
		errs = append(errs, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for link, target := range guestLinks {
		errs = append(errs, os.Symlink(target, filepath.Join(root, link)))
	}
	for file, content := range guestFiles {
		errs = append(errs, os.WriteFile(filepath.Join(root, file), []byte(content), 0o644))
	}
	return errors.Join(errs...)
}

func addBusybox(ctx context.Context, root string) error {
	busybox, err := lookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyFile(busybox, filepath.Join(root, "usr/bin/busybox")); err != nil {
		return err
	}
	applets, err := output(ctx, "", nil, busybox, "--list-full")
	if err != nil {
		return err
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		path := filepath.Join(root, applet)
		if !strings.Contains(applet, "bin/") {
			continue // linuxrc
		}
		if err := os.Symlink("/usr/bin/busybox", path); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// atHand leaves out what this machine does not have: a test that needs it says so.
func atHand(programs []string) []string {
	return slices.DeleteFunc(slices.Clone(programs), func(program string) bool {
		_, err := lookPath(program)
		return err != nil
	})
}

func addTools(ctx context.Context, programs []string, root string) error {
	for _, program := range programs {
		path, err := lookPath(program)
		if err != nil {
			return err
		}
		if err := addTool(ctx, path, root); err != nil {
			return err
		}
	}
	return nil
}

// addTool copies a program with its libraries over busybox's link.
func addTool(ctx context.Context, path, root string) error {
	to := filepath.Join(root, path)
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, library := range librariesOf(ctx, path) {
		if err := copyMissing(library, filepath.Join(root, library)); err != nil {
			return err
		}
	}
	return copyFile(path, to)
}

// librariesOf lists the shared libraries of a program, and its loader. A script or a static binary
// has none, and ldd fails.
func librariesOf(ctx context.Context, path string) []string {
	out, err := output(ctx, "", nil, "ldd", path)
	if err != nil {
		return nil
	}
	var libraries []string
	for line := range strings.Lines(string(out)) {
		// "libc.so.6 => /lib/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)"
		for field := range strings.FieldsSeq(line) {
			if strings.HasPrefix(field, "/") {
				libraries = append(libraries, field)
			}
		}
	}
	return libraries
}

func addModules(k kernel, root string) error {
	files, err := neededModules(k)
	if err != nil {
		return err
	}
	to := filepath.Join(root, "usr/lib/modules", k.version())
	for _, file := range append(files, "modules.dep", "modules.alias", "modules.builtin") {
		if err := copyFile(filepath.Join(k.modules, file), filepath.Join(to, file)); err != nil {
			return err
		}
	}
	list := strings.Join(bootModules, "\n")
	return os.WriteFile(filepath.Join(root, "etc/modules"), []byte(list), 0o644)
}

func copyMissing(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	return copyFile(from, to)
}

// copyFile follows links, keeps the mode, and makes the directories above to.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode()&fs.ModePerm)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
