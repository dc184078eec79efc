//go:build vm

package guest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var fsyncedText = []byte("on the disk")

// filesystems are those of the disks that TestPowerCutTakesOnlyWhatWasNotFsynced of package vm
// makes.
var filesystems = []string{"xfs", "ext4", "btrfs"}

// TestBeforePowerCut ends with the machine.
func TestBeforePowerCut(t *testing.T) {
	for _, fstype := range filesystems {
		root := Disk(t, fstype)
		if err := os.WriteFile(
			filepath.Join(root, "lost"),
			[]byte("in the page cache"),
			0o600,
		); err != nil {
			t.Fatal(err)
		}
		writeDurably(t, filepath.Join(root, "fsynced"))
	}
	raw, err := os.OpenFile(Disk(t, "raw"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// not closed: a device's last close writes its cache
	if _, err := raw.Write(fsyncedText); err != nil {
		t.Fatal(err)
	}
	CutPower()
}

// TestAfterPowerCut finds what was fsynced, and on the raw disk nothing: there it was not.
func TestAfterPowerCut(t *testing.T) {
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			root := Disk(t, fstype)
			if got, err := os.ReadFile(filepath.Join(root, "fsynced")); err != nil ||
				!bytes.Equal(got, fsyncedText) {
				t.Errorf("what was fsynced: %q, %v, want %q", got, err, fsyncedText)
			}
			if got, err := os.ReadFile(filepath.Join(root, "lost")); len(got) > 0 {
				t.Errorf("what was in the page cache: %q, %v: the power was not cut", got, err)
			}
		})
	}
	f, err := os.Open(Disk(t, "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(fsyncedText))
	if _, err := f.Read(got); err != nil || !bytes.Equal(got, make([]byte, len(got))) {
		t.Errorf("what was in the page cache of the raw disk: %q, %v", got, err)
	}
}

// TestFirstBoot leaves a file without an fsync: the end of a boot is a clean one.
func TestFirstBoot(t *testing.T) {
	if err := os.WriteFile(filepath.Join(Disk(t, "ext4"), "file"), fsyncedText, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSecondBoot finds it.
func TestSecondBoot(t *testing.T) {
	if got, err := os.ReadFile(filepath.Join(Disk(t, "ext4"), "file")); err != nil ||
		!bytes.Equal(got, fsyncedText) {
		t.Errorf("%q, %v, want %q", got, err, fsyncedText)
	}
	if _, err := os.Stat("/tmp/first"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("/tmp outlives its boot: %v", err)
	}
}

func writeDurably(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(fsyncedText); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Fsync(int(dir.Fd())); err != nil {
		t.Fatal(err)
	}
}
