package disks

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary, started by itself, one of the children below.
const childEnv = "DISKS_TEST_CHILD"

func TestNewMountsEachFilesystem(t *testing.T) {
	magic := map[string]int64{
		Ext4:  unix.EXT4_SUPER_MAGIC,
		XFS:   unix.XFS_SUPER_MAGIC,
		Btrfs: unix.BTRFS_SUPER_MAGIC,
	}
	for _, fstype := range Types() {
		t.Run(fstype, func(t *testing.T) {
			disk := New(t, fstype, 0)
			var st unix.Statfs_t
			if err := unix.Statfs(disk.Dir, &st); err != nil {
				t.Fatal(err)
			}
			if st.Type != magic[fstype] {
				t.Errorf("filesystem magic is %#x, want %#x", st.Type, magic[fstype])
			}
			size := int64(st.Blocks) * st.Bsize //nolint:gosec // a disk is small
			if size < DefaultSize*8/10 || size > DefaultSize {
				t.Errorf("filesystem has %d bytes, want a little less than %d", size, DefaultSize)
			}
		})
	}
}

func TestOptionsReachMkfsAndMount(t *testing.T) {
	disk := New(t, Ext4, 64<<20, MkfsArgs("-L", "csi"), MountData("data=journal"))
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if !containsLine(string(mounts), disk.Dir, "data=journal") {
		t.Errorf("no mount of %s with data=journal", disk.Dir)
	}
	out, err := exec.CommandContext(t.Context(), "/sbin/e2label", disk.Device).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "csi" {
		t.Errorf("e2label: %q, %v, want csi", out, err)
	}
}

func TestDiskIsGoneWithItsTest(t *testing.T) {
	RequireRoot(t)
	var disk Disk
	target := filepath.Join(t.TempDir(), "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Run("inner", func(t *testing.T) {
		disk = New(t, Btrfs, 0)
		bind(t, disk.Dir, target)
	})
	wantGone(t, disk)
	if err := os.Remove(target); err != nil {
		t.Errorf("a bind mount has outlived its disk: %v", err)
	}
}

// TestDiskOfDeadTestIsGone ends a test in the three ways in which one ends badly.
func TestDiskOfDeadTestIsGone(t *testing.T) {
	RequireRoot(t)
	for _, death := range []string{"fatal", "panic", "kill"} {
		t.Run(death, func(t *testing.T) {
			disk := runChild(t, death)
			New(t, Ext4, 64<<20) // sweeps
			wantGone(t, disk)
		})
	}
}

// TestChild is not a test by itself: see TestDiskOfDeadTestIsGone.
func TestChild(t *testing.T) {
	death := os.Getenv(childEnv)
	if death == "" {
		return
	}
	disk := New(t, Ext4, 64<<20)
	if _, err := os.Stdout.WriteString(
		"\ndisk " + disk.Dir + " " + disk.Device + " " + disk.Image + "\n",
	); err != nil {
		t.Fatal(err)
	}
	switch death {
	case "fatal":
		t.Fatal("as asked")
	case "panic":
		panic("as asked")
	case "kill":
		if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {}
	}
}

// runChild runs TestChild in a process of its own, and returns the disk that it made.
func runChild(t *testing.T, death string) Disk {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+death)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the child has survived: %s", out)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "disk" {
			return Disk{Dir: f[1], Device: f[2], Image: f[3]}
		}
	}
	t.Fatalf("the child made no disk: %v: %s", err, out)
	return Disk{}
}

func bind(t *testing.T, source, target string) {
	t.Helper()
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

func wantGone(t *testing.T, disk Disk) {
	t.Helper()
	if _, err := os.Lstat(filepath.Dir(disk.Dir)); err == nil {
		t.Errorf("%s is still there", filepath.Dir(disk.Dir))
	}
	if got := backingFile(disk.Device); strings.HasPrefix(got, disk.Image) {
		t.Errorf("%s is still attached to %s", disk.Device, got)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if containsLine(string(mounts), disk.Dir) {
		t.Errorf("%s is still mounted", disk.Dir)
	}
}

func containsLine(text string, parts ...string) bool {
lines:
	for line := range strings.Lines(text) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		return true
	}
	return false
}
