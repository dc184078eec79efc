package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// oddNames have what the kernel escapes in the mount table, and what looks like an escape.
var oddNames = []string{
	"plain",
	"with blank",
	"tab\tand\nnewline",
	`back\slash`,
	`\040`,
	`trailing\`,
	"größe",
	"\xff",
}

// mount(8) invents a source if none is given; mount(2) does not.
func TestMountWithoutASourceDoesNotHideTheOthers(t *testing.T) {
	point := filepath.Join(newBase(t), "point")
	put(t, point, emptyDir)
	if err := unix.Mount("", point, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	mounts, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(
		mounts, func(m Mount) bool { return m.Point == point && m.FSType == "tmpfs" },
	) {
		t.Errorf("the table lacks the mount at %s", point)
	}
}

// escape is mangle() of the kernel's fs/seq_file.c, for show_mountinfo().
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(" \t\n\\#", s[i]) >= 0 {
			fmt.Fprintf(&b, `\%03o`, s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func TestTableShowsOddPathsAsTheyAre(t *testing.T) {
	base := newBase(t)
	for _, name := range oddNames {
		source, point := filepath.Join(base, "source "+name), filepath.Join(base, "point "+name)
		put(t, source, emptyDir)
		put(t, point, emptyDir)
		mountByHand(t, source, point)
	}
	mounts, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range oddNames {
		point := filepath.Join(base, "point "+name)
		i := slices.IndexFunc(mounts, func(m Mount) bool { return m.Point == point })
		if i < 0 || !strings.HasSuffix(mounts[i].Root, "/source "+name) {
			t.Errorf("%q is not in the table, or with another root", point)
		}
	}
}

// The location of a pool in its filesystem does not depend on the path: in a container the pool is
// a bind mount.
func TestLocationIsTheSameByEveryWay(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk, base := disks.New(t, fstype, 0), newBase(t)
			for _, name := range oddNames {
				pool := filepath.Join(disk.Dir, name)
				put(t, pool, emptyDir)
				put(t, filepath.Join(pool, "data dir"), emptyDir)
				point, deeper := filepath.Join(base, name), filepath.Join(base, "data of "+name)
				put(t, point, emptyDir)
				put(t, deeper, emptyDir)
				mountByHand(t, pool, point)
				mountByHand(t, filepath.Join(point, "data dir"), deeper)
				direct, bound := locate(t, pool), locate(t, point)
				if direct != bound {
					t.Errorf("%q is at %+v, and by its bind mount at %+v", name, direct, bound)
				}
				wantBelow(t, direct, deeper, "data dir")
				if _, ok := locate(t, filepath.Join(pool, "data dir")).Below(at(t, point)); ok {
					t.Errorf("%q counts as below its own content", name)
				}
			}
		})
	}
}

func TestLocationInABtrfsSubvolume(t *testing.T) {
	disk, base := disks.New(t, disks.Btrfs, 0), newBase(t)
	sub := filepath.Join(disk.Dir, "sub")
	makeSubvolume(t, disk.Dir, "sub")
	put(t, filepath.Join(sub, "data"), emptyDir)
	mounted, point := filepath.Join(base, "mounted"), filepath.Join(base, "point")
	put(t, mounted, emptyDir)
	put(t, point, emptyDir)
	if err := unix.Mount(disk.Device, mounted, disks.Btrfs, 0, "subvol=/sub"); err != nil {
		t.Fatal(err)
	}
	mountByHand(t, filepath.Join(mounted, "data"), point)
	if direct, byMount := locate(t, sub), locate(t, mounted); direct != byMount {
		t.Errorf("the subvolume is at %+v, mounted at %+v", direct, byMount)
	}
	wantBelow(t, locate(t, sub), point, "data")
	if ok, err := isMountpoint(mounted); !ok || err != nil {
		t.Errorf("a mounted subvolume is a filesystem's root: %v, %v", ok, err)
	}
	// A directory of a btrfs is bind-mounted on its own path, and the disk that should be mounted
	// there is not.
	own := filepath.Join(mounted, "data")
	mountByHand(t, own, own)
	if ok, err := isMountpoint(own); ok || err != nil {
		t.Errorf("a directory of a btrfs, bound on itself, is a mount point: %v, %v", ok, err)
	}
	if ok, err := isMountpoint(point); !ok || err != nil {
		t.Errorf("a directory of a btrfs, bound elsewhere, is no mount point: %v, %v", ok, err)
	}
}

func isMountpoint(path string) (bool, error) {
	d, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer d.Close()
	err = CheckMountpoint(d)
	if errors.Is(err, ErrNoMountpoint) {
		return false, nil
	}
	return err == nil, err
}

func makeSubvolume(t *testing.T, parent, name string) {
	t.Helper()
	d, err := os.Open(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// BTRFS_IOC_SUBVOL_CREATE of linux/btrfs.h with struct btrfs_ioctl_vol_args: s64 fd, char
	// name[4088].
	const subvolCreate = 0x5000940e
	var args [4096]byte
	copy(args[8:], name)
	if err := ioctl(d, subvolCreate, &args); err != nil {
		t.Fatal(err)
	}
}

func locate(t *testing.T, path string) Location {
	t.Helper()
	d, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := Locate(d)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// at returns the topmost mount at a path.
func at(t *testing.T, path string) Mount {
	t.Helper()
	mounts, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Backward(mounts) {
		if m.Point == path {
			return m
		}
	}
	t.Fatalf("nothing is mounted at %s", path)
	return Mount{}
}

func wantBelow(t *testing.T, l Location, point, want string) {
	t.Helper()
	if rel, ok := l.Below(at(t, point)); !ok || rel != want {
		t.Errorf("the mount at %s is %q below %+v, %v, want %q", point, rel, l, ok, want)
	}
}

func TestOtherFilesystemIsNotBelow(t *testing.T) {
	disk, base := disks.New(t, disks.Ext4, 32<<20), newBase(t)
	point := filepath.Join(base, "point")
	put(t, point, emptyDir)
	mountByHand(t, disk.Dir, point)
	if rel, ok := locate(t, base).Below(at(t, point)); ok {
		t.Errorf("the mount of another filesystem is %q below", rel)
	}
}

func TestOnlyAMountOfSomethingElseMakesAMountpoint(t *testing.T) {
	base := newBase(t)
	bound, boundFS := filepath.Join(base, "bound on itself"), filepath.Join(base, "elsewhere")
	put(t, bound, emptyDir)
	put(t, boundFS, emptyDir)
	mountByHand(t, bound, bound)
	// A directory of a disk, as in "mount --bind /mnt/disk/pool /srv/pool".
	boundDir, source := filepath.Join(base, "pool"), filepath.Join(newBase(t), "pool")
	put(t, boundDir, emptyDir)
	put(t, source, emptyDir)
	mountByHand(t, source, boundDir)
	want := map[string]bool{
		base: false, bound: false, boundFS: true, boundDir: true, "/": true, "/proc": true,
	}
	for _, fstype := range disks.Types() {
		disk := disks.New(t, fstype, 0)
		want[disk.Dir] = true
		put(t, filepath.Join(disk.Dir, "sub"), emptyDir)
		want[filepath.Join(disk.Dir, "sub")] = false
		link := filepath.Join(base, "link-to-"+fstype)
		if err := os.Symlink(disk.Dir, link); err != nil {
			t.Fatal(err)
		}
		want[link] = true
		if fstype == disks.Ext4 {
			mountByHand(t, disk.Dir, boundFS)
		}
	}
	for path, is := range want {
		if got, err := isMountpoint(path); got != is || err != nil {
			t.Errorf("CheckMountpoint(%s) = %v, %v, want %v", path, got, err, is)
		}
	}
}

func ioctl(f *os.File, request uintptr, args *[4096]byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request,
		uintptr(unsafe.Pointer(args))) //nolint:gosec // ioctl(2) has no other way
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
