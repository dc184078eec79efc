package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// dirs are directories on a disk and in memory: tmpfs cannot zero a range.
func dirs(t *testing.T) map[string]string {
	t.Helper()
	disks.RequireRoot(t)
	memory := t.TempDir()
	must(t, unix.Mount("tmpfs", memory, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { must(t, unix.Unmount(memory, unix.MNT_DETACH)) })
	return map[string]string{"disk": t.TempDir(), "memory": memory}
}

// onEachAllocation runs a test for an image of 1 MiB, sparse and preallocated.
func onEachAllocation(
	t *testing.T, test func(t *testing.T, f *os.File, allocation volume.Allocation),
) {
	t.Helper()
	for name, at := range dirs(t) {
		for _, allocation := range []volume.Allocation{volume.Sparse, volume.Preallocated} {
			t.Run(fmt.Sprintf("%s %s", name, allocation), func(t *testing.T) {
				path := filepath.Join(at, string(allocation))
				must(t, os.Mkdir(path, 0o700))
				dir, err := openat.OpenDir(path)
				must(t, err)
				defer dir.Close()
				f, _, err := image.New(allocation).Make(dir, volume.Spec{}, mib)
				must(t, err)
				defer f.Close()
				test(t, f, allocation)
			})
		}
	}
}

func TestClearedImageIsAllZeroesAndTakesWhatItTookBefore(t *testing.T) {
	onEachAllocation(t, func(t *testing.T, f *os.File, allocation volume.Allocation) {
		t.Helper()
		for _, at := range []int64{4096, mib - 4096} {
			_, err := f.WriteAt([]byte("half a filesystem"), at)
			must(t, err)
		}
		must(t, image.New(allocation).Clear(f))
		content := make([]byte, mib)
		if n, err := f.ReadAt(content, 0); !bytes.Equal(content, make([]byte, mib)) {
			t.Errorf("the image has %d bytes, and not all of them are 0, %v", n, err)
		}
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		if took := st.Blocks * 512; (took >= mib) != (allocation == volume.Preallocated) {
			t.Errorf("a %s image of %d bytes takes %d", allocation, st.Size, took)
		}
	})
}

func TestImageIsBlankAsLongAsAllOfItIsZero(t *testing.T) {
	onEachAllocation(t, func(t *testing.T, f *os.File, _ volume.Allocation) {
		t.Helper()
		wantContent := func(blank bool, at int64) {
			t.Helper()
			got, err := image.Inspect(t.Context(), f)
			if err != nil || got.IsBlank() != blank || got.DataOffset != at || got.Type != "" {
				t.Errorf("found %+v, %v, want data at %d", got, err, at)
			}
		}
		wantContent(true, -1)
		_, err := f.WriteAt(make([]byte, 8192), 4096) // zeroes that are no hole
		must(t, err)
		wantContent(true, -1)
		const last = mib - 1
		_, err = f.WriteAt([]byte{1}, last)
		must(t, err)
		wantContent(false, last)
		_, err = f.WriteAt([]byte{0xff}, 5000)
		must(t, err)
		wantContent(false, 5000)
	})
}

func TestFilesystemInAnImageIsFoundWithItsSize(t *testing.T) {
	for fsType, mkfs := range map[string][]string{
		"ext4":  {"mkfs.ext4", "-q", "-F", "-b", "4096"},
		"xfs":   {"mkfs.xfs", "-q", "-f"},
		"btrfs": {"mkfs.btrfs", "-q", "-f"},
	} {
		t.Run(fsType, func(t *testing.T) {
			disks.RequireRoot(t)
			const size = 320 * mib
			path := filepath.Join(t.TempDir(), "data")
			f, err := os.Create(path)
			must(t, err)
			defer f.Close()
			must(t, f.Truncate(size))
			out, err := exec.Command(mkfs[0], append(mkfs[1:], path)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v", out, err)
			}
			must(t, f.Truncate(2*size)) // the filesystem has not grown
			got, err := image.Inspect(t.Context(), f)
			if err != nil || got.Type != fsType || got.Bytes != size || got.ImageBytes != 2*size {
				t.Errorf("found %+v, %v", got, err)
			}
		})
	}
}

// The record may be older than the filesystem, which need not have written anything where it grew.
func TestImageIsNotCutBelowItsFilesystem(t *testing.T) {
	const before, after = 48 * mib, 96 * mib
	dir, err := openat.OpenDir(t.TempDir())
	must(t, err)
	defer dir.Close()
	f, _, err := image.New(volume.Sparse).Make(dir, volume.Spec{}, before)
	must(t, err)
	defer f.Close()
	path := filepath.Join(dir.Name(), f.Name())
	run := func(name string, args ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), name, append(args, path)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run("mkfs.ext4", "-q", "-F", "-b", "4096")
	must(t, f.Truncate(after))
	run("resize2fs")
	if at, err := f.Seek(before, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		t.Fatalf("there is data at %d, %v: the test shows nothing", at, err)
	}
	_, err = image.New(volume.Sparse).Adopt(dir, 0, volume.Spec{}, before)
	if !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("with the record from before: %v, want ErrCorrupt", err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != after {
		t.Errorf("the image has %d bytes, %v", info.Size(), err)
	}
	repaired, err := image.New(volume.Sparse).Adopt(dir, 0, volume.Spec{}, after)
	if repaired || err != nil {
		t.Errorf("with the right record: %t, %v", repaired, err)
	}
}
