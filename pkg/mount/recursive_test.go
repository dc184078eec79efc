package mount

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// newHost makes a directory of the host and mounts two filesystems below it, one in the other, each
// with a file. All are shared mounts, as systemd makes them.
func newHost(t *testing.T) string {
	t.Helper()
	host := filepath.Join(newBase(t), "host")
	put(t, host, emptyDir)
	disk, inner := filepath.Join(host, "disk"), filepath.Join(host, "disk/inner")
	for _, dir := range []string{host, disk, inner} {
		if dir != host {
			put(t, dir, emptyDir)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, "file"), fullFile)
	}
	return host
}

// newKubelet makes a base that is a shared mount, as kubelet's directory is.
func newKubelet(t *testing.T) string {
	t.Helper()
	base := newBase(t)
	mountByHand(t, base, base)
	if err := unix.Mount("", base, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return base
}

var hostFiles = []string{"file", "disk/file", "disk/inner/file"}

func TestRecursiveBindShowsWhatIsMountedBelow(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		host, at := newHost(t), target(t, newKubelet(t), "target")
		if err := Bind(pinned(t, host), at, options(t, readOnly).Recursive()); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"", "disk", "disk/inner"} {
			dir = filepath.Join(at.String(), dir)
			shown, hidden := []string{"rw", "nosuid", "nodev"}, []string{"ro"}
			if readOnly {
				shown, hidden = []string{"ro", "nosuid", "nodev"}, []string{"rw"}
			}
			wantAttributes(t, dir, shown, hidden)
			wantWritable(t, dir, fullDir, !readOnly)
		}
		wantAttributes(t, filepath.Join(host, "disk"), []string{"rw"}, []string{"nosuid", "nodev"})
		if err := Unbind(at); err != nil {
			t.Fatal(err)
		}
		wantAbsent(t, at.String())
	}
}

// If the target were in the source's peer group, its lazy unmount would unmount the host's disks.
func TestUnbindOfARecursiveBindLeavesTheHostsMounts(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		host, at := newHost(t), target(t, newKubelet(t), "target")
		if err := Bind(pinned(t, host), at, options(t, readOnly).Recursive()); err != nil {
			t.Fatal(err)
		}
		if err := Unbind(at); err != nil {
			t.Fatal(err)
		}
		wantAbsent(t, at.String())
		for _, file := range hostFiles {
			if content, err := os.ReadFile(filepath.Join(host, file)); string(content) != fullContent {
				t.Errorf("read-only %v: %s on the host has %q, %v", readOnly, file, content, err)
			}
		}
	}
}

// Who mounts below the target is, for example, a container with mountPropagation: Bidirectional.
func TestWhatIsMountedBelowATargetDoesNotReachTheHost(t *testing.T) {
	host, at := newHost(t), target(t, newKubelet(t), "target")
	put(t, filepath.Join(host, "empty"), emptyDir)
	if err := Bind(pinned(t, host), at, options(t, false).Recursive()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(at.String(), "empty"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	wantMounts(t, filepath.Join(host, "empty"), 0)
	if err := Unbind(at); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, at.String())
	wantMounts(t, filepath.Join(host, "disk"), 1)
}

// As with HostToContainer, what the host mounts later appears below a writable target. Below a
// read-only target it would be writable.
func TestWhatTheHostMountsLaterAppearsOnlyBelowAWritableTarget(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		host, at := newHost(t), target(t, newKubelet(t), "target")
		put(t, filepath.Join(host, "later"), emptyDir)
		if err := Bind(pinned(t, host), at, options(t, readOnly).Recursive()); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", filepath.Join(host, "later"), "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		want := 1
		if readOnly {
			want = 0
		}
		wantMounts(t, filepath.Join(at.String(), "later"), want)
		if err := Unbind(at); err != nil {
			t.Fatal(err)
		}
		wantMounts(t, filepath.Join(host, "later"), 1)
	}
}

func TestSocketsAndDevicesAreBoundOnRegularFiles(t *testing.T) {
	for _, tc := range []struct {
		title string
		mode  uint32
		want  []string
	}{
		{"socket", unix.S_IFSOCK | 0o666, []string{"nodev", "nosuid"}},
		{"character device", unix.S_IFCHR | 0o666, []string{"nosuid"}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			base := newBase(t)
			source, at := filepath.Join(base, "source"), target(t, base, "target")
			if err := unix.Mknod(source, tc.mode,
				int(unix.Mkdev(1, 3))); err != nil { //nolint:gosec // null: a small number
				t.Fatal(err)
			}
			o := options(t, false).Recursive()
			hidden := []string{"ro"}
			if tc.mode&unix.S_IFMT == unix.S_IFCHR {
				o, hidden = o.WithDevices(), []string{"nodev"}
			}
			for range 2 {
				if err := Bind(pinned(t, source), at, o); err != nil {
					t.Fatal(err)
				}
			}
			wantMounts(t, at.String(), 1)
			wantAttributes(t, at.String(), tc.want, hidden)
			if err := Unbind(at); err != nil {
				t.Fatal(err)
			}
			wantAbsent(t, at.String())
		})
	}
}
