// Package debian installs the Debian packages that the cluster's programs need.
package debian

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// Package is a Debian package and a file that shows it is there, so that a
// machine of another distribution with the same programs works too.
type Package struct {
	Name string
	// Programs are names looked up in PATH, Files are absolute; one of all is enough.
	Programs []string
	Files    []string
}

// Cluster lists what `up` needs, Build what building a Dockerfile needs.
var (
	Cluster = []Package{
		// for the pods that want the old one
		{Name: "runc", Files: []string{"/usr/sbin/runc"}},
		// for building the new one
		{Name: "gcc", Programs: []string{"gcc"}},
		{Name: "libc6-dev", Files: []string{"/usr/include/stdlib.h"}},
		{Name: "pkg-config", Programs: []string{"pkg-config"}},
		{Name: "libseccomp-dev", Files: []string{"/usr/include/seccomp.h"}},
		{
			Name:  "containernetworking-plugins",
			Files: []string{"/usr/lib/cni/bridge", "/opt/cni/bin/bridge"},
		},
		{Name: "busybox-static", Programs: []string{"busybox"}},
		{Name: "iproute2", Programs: []string{"ip"}},
		{Name: "nftables", Programs: []string{"nft"}},
		{Name: "mount", Programs: []string{"mount"}},
		{Name: "util-linux", Programs: []string{"nsenter"}},
		{Name: "e2fsprogs", Programs: []string{"mkfs.ext4"}},
		{Name: "xfsprogs", Programs: []string{"mkfs.xfs"}},
		{Name: "btrfs-progs", Programs: []string{"mkfs.btrfs"}},
		// for test/e2e, whose pods get it from the machine
		{Name: "sqlite3", Programs: []string{"sqlite3"}},
	}
	Build = []Package{
		{Name: "buildah", Programs: []string{"buildah"}},
		{Name: "debootstrap", Programs: []string{"debootstrap"}},
	}
)

// installing is held by who installs: of two apt-get at the same time one fails.
var installing sync.Mutex

// Ensure installs those of the packages that are missing.
func Ensure(ctx context.Context, packages []Package, progress func(string, ...any)) error {
	installing.Lock()
	defer installing.Unlock()
	missing := Missing(packages)
	if len(missing) == 0 {
		return nil
	}
	progress("installing Debian packages: %s", strings.Join(missing, " "))
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("programs of these Debian packages are missing, and there is no apt-get: "+
			"install them by your system's means: %s", strings.Join(missing, " "))
	}
	install := append([]string{"install", "--yes", "--no-install-recommends"}, missing...)
	if _, err := aptGet(ctx, install...); err == nil {
		return nil
	}
	// A machine that never ran update knows no package, one that ran it long ago
	// asks for versions that are gone.
	if output, err := aptGet(ctx, "update"); err != nil {
		return fmt.Errorf(
			"apt-get update: %w: %s: check this machine's package sources, or install by hand: %s",
			err,
			lastLine(output),
			strings.Join(missing, " "),
		)
	}
	if output, err := aptGet(ctx, install...); err != nil {
		return fmt.Errorf("apt-get install: %w: %s: install by hand: %s", err, lastLine(output),
			strings.Join(missing, " "))
	}
	return nil
}

// Missing returns the names of the packages of which nothing is found.
func Missing(packages []Package) []string {
	var missing []string
	for _, p := range packages {
		if !p.present() {
			missing = append(missing, p.Name)
		}
	}
	return missing
}

func (p Package) present() bool {
	for _, program := range p.Programs {
		if _, err := exec.LookPath(program); err == nil {
			return true
		}
	}
	for _, file := range p.Files {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	return false
}

func aptGet(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"--quiet"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return cmd.CombinedOutput()
}

func lastLine(output []byte) string {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return lines[len(lines)-1]
}
