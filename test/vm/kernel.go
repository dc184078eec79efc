package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelPackage always depends on Debian's newest kernel for virtual machines.
const kernelPackage = "linux-image-cloud-amd64"

var (
	// bootModules are loaded at boot, with what they depend on.
	bootModules = []string{
		"virtio_pci",
		"virtio_blk",
		"virtio_console",
		"crc32c_intel",
		"ext4",
		"loop",
		"dm_mod",
	}
	// otherModules are at hand when the kernel asks for them, as it does when a filesystem is
	// mounted. (Some take long to load here: btrfs times its checksums.)
	otherModules = []string{
		"crc32c_generic", "xxhash_generic", "blake2b_generic",
		"xfs", "btrfs", "quota_v2", "overlay", "fuse", "dm_flakey", "dm_log_writes", "dm_snapshot",
	}
)

// kernel is what Debian's package unpacks to, with modules.dep made.
type kernel struct {
	image   string // vmlinuz
	modules string // lib/modules/VERSION
}

func (k kernel) version() string { return filepath.Base(k.modules) }

// findKernel returns the kernel in the cache, and fills the cache when it is empty.
func findKernel(ctx context.Context, cache string, logf Logf) (kernel, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return kernel{}, err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return kernel{}, err
	}
	defer unlock()
	dir := filepath.Join(cache, "kernel")
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		logf("vm: downloading %s into %s", kernelPackage, dir)
		err = fetchKernel(ctx, cache, dir)
		if err != nil {
			return kernel{}, err
		}
	}
	return kernelIn(dir)
}

// kernelIn finds the one kernel below dir.
func kernelIn(dir string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if err != nil {
		return kernel{}, err
	}
	versions, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil {
		return kernel{}, err
	}
	if len(images) != 1 || len(versions) != 1 {
		return kernel{}, fmt.Errorf("%s has %d kernels and %d sets of modules, want one each: remove it",
			dir, len(images), len(versions))
	}
	return kernel{image: images[0], modules: versions[0]}, nil
}

// fetchKernel makes dir in one rename, so that a download that was killed is not taken for a
// kernel.
func fetchKernel(ctx context.Context, cache, dir string) error {
	if err := canInstall(); err != nil {
		return fmt.Errorf("%w: %w: unpack the package that %s depends on into %s", ErrUnavailable, err,
			kernelPackage, dir)
	}
	tmp, err := os.MkdirTemp(cache, "tmp-")
	if err != nil {
		return err
	}
	err = unpackKernel(ctx, tmp, dir)
	return errors.Join(err, os.RemoveAll(tmp))
}

// unpackKernel works in tmp.
func unpackKernel(ctx context.Context, tmp, dir string) error {
	name, err := realPackage(ctx)
	if err != nil {
		return err
	}
	if _, err := output(ctx, tmp, nil, "apt-get", "download", name); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s: %d packages: %w", name, len(debs), err)
	}
	root := filepath.Join(tmp, "root")
	if _, err := output(ctx, "", nil, "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	k, err := kernelIn(root)
	if err != nil {
		return err
	}
	if _, err := output(ctx, "", nil, "busybox", "depmod", "-b", root, k.version()); err != nil {
		return err
	}
	return os.Rename(root, dir)
}

// realPackage is the package with the kernel in it, whose name has the version.
func realPackage(ctx context.Context) (string, error) {
	for _, prepare := range []bool{false, true} {
		if prepare {
			if err := aptGet(ctx, "update", "-qq"); err != nil {
				return "", err
			}
		}
		out, err := output(ctx, "", nil, "apt-cache", "depends", kernelPackage)
		if err != nil {
			continue // the lists are absent
		}
		for line := range strings.Lines(string(out)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok &&
				strings.HasPrefix(name, "linux-image-") {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("%w: this system's packages have no %s", ErrUnavailable, kernelPackage)
}

// neededModules are the files, below k.modules, of those modules and all that they depend on.
func neededModules(k kernel) ([]string, error) {
	files, err := readDependencies(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := readDependencies(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	var needs []string
	for _, name := range slices.Concat(bootModules, otherModules) {
		found, ok := files[name]
		if _, inKernel := builtin[name]; !ok && !inKernel {
			return nil, fmt.Errorf("kernel %s has no module %s", k.version(), name)
		}
		needs = append(needs, found...)
	}
	slices.Sort(needs)
	return slices.Compact(needs), nil
}

// readDependencies maps a module's name to its file and those of all modules it depends on. It
// reads modules.builtin as well, which has the files alone.
func readDependencies(path string) (map[string][]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string][]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		file, dependencies, _ := strings.Cut(lines.Text(), ":")
		name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
		files[name] = append(strings.Fields(dependencies), file)
	}
	return files, lines.Err()
}

// lock waits for an exclusive lock on path, which other test processes take too.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(&os.PathError{Op: "flock", Path: path, Err: err}, f.Close())
	}
	return func() { f.Close() }, nil
}
