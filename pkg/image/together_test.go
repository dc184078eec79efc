package image

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// mountedImage is an image with a filesystem that is mounted, in a directory of its own.
type mountedImage struct {
	source Source
	// path is where the filesystem is mounted.
	path string
}

func ext4Spec() volume.Spec {
	return volume.Spec{
		Type: volume.DirectoryOrCreate, Mode: 0o755, Backing: volume.ImageBacking, FSType: volume.Ext4,
		Allocation: volume.Sparse,
	}
}

func newMountedImage(t *testing.T, disk disks.Disk, name string) mountedImage {
	t.Helper()
	dir := newDir(t, filepath.Join(disk.Dir, name))
	f, _, err := New(volume.Sparse).Make(dir, ext4Spec(), volume.Ext4.MinimumBytes())
	fixture.Must(t, err)
	defer f.Close()
	parsed, err := volume.ParseName(name)
	fixture.Must(t, err)
	return mountedImage{
		source: Source{
			Name: volume.NewID("0123456789ab", parsed), Dir: dir, Spec: ext4Spec(),
			Bytes: volume.Ext4.MinimumBytes(),
		},
		path: mountFile(t, f, filesystem.Make),
	}
}

func newDir(t *testing.T, path string) openat.Dir {
	t.Helper()
	fixture.Must(t, os.Mkdir(path, 0o700))
	dir, err := openat.OpenDir(path)
	fixture.Must(t, err)
	t.Cleanup(func() { dir.Close() })
	return dir
}

// mountFile attaches an image, and mounts the filesystem in it until the test ends.
func mountFile(
	t *testing.T, f *os.File, mount func(device string, at *os.File, spec volume.Spec) error,
) (path string) {
	t.Helper()
	path = t.TempDir()
	device, err := loopdev.Attach(f, loopdev.Options{})
	fixture.Must(t, err)
	defer device.Close()
	at, err := os.Open(path)
	fixture.Must(t, err)
	defer at.Close()
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	fixture.Must(t, mount(device.Path(), at, ext4Spec()))
	return path
}

// write makes a number durable in a filesystem.
func write(path string, n uint64) error {
	f, err := os.OpenFile(filepath.Join(path, "counter"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.BigEndian.AppendUint64(nil, n), 0)
	return errors.Join(err, f.Sync(), f.Close())
}

func read(t *testing.T, path string) uint64 {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path, "counter"))
	fixture.Must(t, err)
	return binary.BigEndian.Uint64(append(content, make([]byte, 8)...))
}

// countUp writes 1, 2, and so on to both filesystems, to the first one first, until stop.
func countUp(t *testing.T, first, second string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	begun := make(chan struct{})
	writer.Go(func() {
		for n := uint64(1); ctx.Err() == nil; n++ {
			if err := errors.Join(write(first, n), write(second, n)); err != nil {
				t.Error(err)
				return
			}
			if n == 1 {
				close(begun)
			}
		}
	})
	<-begun
	stop = func() { cancel(); writer.Wait() }
	t.Cleanup(stop)
	return stop
}

// A write to the second filesystem is made after the write to the first one is durable. So in
// copies of one moment the number in the second is never greater, and at most one less.
func TestImagesThatAreCopiedTogetherShowOneMoment(t *testing.T) {
	for _, fstype := range []string{disks.XFS, disks.Ext4} {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, 0)
			first, second := newMountedImage(t, disk, "first"), newMountedImage(t, disk, "second")
			stop := countUp(t, first.path, second.path)
			for i := range 3 {
				copies := copyTogether(t, disk, fmt.Sprint("copy-", i), first.source, second.source)
				one, two := read(t, copies[0]), read(t, copies[1])
				if two > one || one-two > 1 {
					t.Errorf("copy %d has %d in the first image and %d in the second", i, one, two)
				}
			}
			stop()
		})
	}
}

// copyTogether returns where the copies are mounted.
func copyTogether(t *testing.T, disk disks.Disk, name string, from ...Source) (paths []string) {
	t.Helper()
	var dirs []openat.Dir
	for i := range from {
		dirs = append(dirs, newDir(t, filepath.Join(disk.Dir, fmt.Sprint(name, "-", i))))
	}
	files, err := CopyTogether(t.Context(), from, dirs,
		copytree.Options{Progress: &copytree.Progress{}}, nil)
	fixture.Must(t, err)
	for _, f := range files {
		paths = append(paths, mountFile(t, f, filesystem.Mount))
		f.Close()
	}
	return paths
}

// Whoever holds the writers may hang itself, in a call to the kernel.
func TestWritersWaitNoLongerThanTheBound(t *testing.T) {
	disk := disks.New(t, disks.XFS, 0)
	first, second := newMountedImage(t, disk, "first"), newMountedImage(t, disk, "second")
	g, err := quiesceAll(t.Context(), []Source{first.source, second.source}, time.Second)
	fixture.Must(t, err)
	defer g.close()
	fixture.Must(t, write(first.path, 1)) // waits until the watch thaws it
	fixture.Must(t, write(second.path, 1))
	if err := g.release(); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("released after the bound: %v, want ErrInUse", err)
	}
}

// hang freezes a disk until the test ends, or until what it returns is called: what is written to
// the images on it hangs in the kernel.
func hang(t *testing.T, disk disks.Disk) (end func()) {
	t.Helper()
	root, err := os.Open(disk.Dir)
	fixture.Must(t, err)
	fixture.Must(t, filesystem.Freeze(root))
	end = sync.OnceFunc(func() {
		if _, err := filesystem.Thaw(root); err != nil {
			t.Error(err)
		}
		root.Close()
	})
	t.Cleanup(end)
	return end
}

// syncAll writes the whole filesystem to its device.
func syncAll(t *testing.T, path string) {
	t.Helper()
	root, err := os.Open(path)
	fixture.Must(t, err)
	fixture.Must(t, errors.Join(unix.Syncfs(int(root.Fd())), root.Close()))
}

// inBackground calls a function, and returns where its error arrives.
func inBackground(do func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	return done
}

func quiesceAndRelease(t *testing.T, most time.Duration, from ...Source) <-chan error {
	t.Helper()
	return inBackground(func() error {
		g, err := quiesceAll(t.Context(), from, most)
		if err != nil {
			return err
		}
		defer g.close()
		return g.release()
	})
}

// wait returns the error that arrives, if it does so before much longer than any bound here.
func wait(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for too long")
		return nil
	}
}

func TestNobodyIsFrozenBeforeAllAreFlushed(t *testing.T) {
	disk, slow := disks.New(t, disks.XFS, 0), disks.New(t, disks.XFS, 0)
	first, second := newMountedImage(t, disk, "first"), newMountedImage(t, slow, "second")
	fixture.Must(t, os.WriteFile(filepath.Join(second.path, "dirty"), make([]byte, 1<<20), 0o600))
	end := hang(t, slow)
	done := quiesceAndRelease(t, maxQuiesced, first.source, second.source)
	for begun := time.Now(); time.Since(begun) < time.Second; time.Sleep(50 * time.Millisecond) {
		fixture.Must(t, wait(t, inBackground(func() error { return write(first.path, 1) })))
	}
	select {
	case err := <-done:
		t.Fatalf("held before all are flushed: %v", err)
	default:
	}
	end()
	fixture.Must(t, wait(t, done))
	fixture.Must(t, errors.Join(write(first.path, 2), write(second.path, 2)))
}

func TestWritersDoNotWaitForTheFreezeOfAnother(t *testing.T) {
	const most = time.Second
	disk, slow := disks.New(t, disks.XFS, 0), disks.New(t, disks.XFS, 0)
	first, second := newMountedImage(t, disk, "first"), newMountedImage(t, slow, "second")
	syncAll(t, second.path) // the flush has nothing to write then; the freeze writes the superblock
	end := hang(t, slow)
	done := quiesceAndRelease(t, most, first.source, second.source)
	var longest time.Duration
	for until := time.Now().Add(10 * most); longest < most/2 && time.Now().Before(until); {
		begun := time.Now()
		fixture.Must(t, wait(t, inBackground(func() error { return write(first.path, 1) })))
		longest = max(longest, time.Since(begun))
	}
	if longest < most/2 {
		t.Errorf("no writer was held: the longest write took %s", longest)
	}
	select {
	case err := <-done:
		t.Fatalf("released before all are frozen: %v", err)
	default:
	}
	end()
	if err := wait(t, done); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("released after the bound: %v, want ErrInUse", err)
	}
	fixture.Must(t, errors.Join(write(first.path, 2), write(second.path, 2)))
}

func TestWritersGoOnAfterAFailure(t *testing.T) {
	disk := disks.New(t, disks.XFS, 0)
	first, second := newMountedImage(t, disk, "first"), newMountedImage(t, disk, "second")
	damaged := second.source
	damaged.Dir = newDir(t, filepath.Join(disk.Dir, "empty"))
	_, err := CopyTogether(t.Context(), []Source{first.source, damaged}, nil, copytree.Options{}, nil)
	if !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("copy an image that is not there: %v, want ErrCorrupt", err)
	}
	failed := errors.New("failed")
	_, err = CopyTogether(t.Context(), []Source{first.source, second.source}, nil, copytree.Options{},
		func(context.Context) error { return failed })
	if !errors.Is(err, failed) {
		t.Errorf("what is done meanwhile fails: %v", err)
	}
	fixture.Must(t, errors.Join(write(first.path, 1), write(second.path, 1)))
}

func TestRawBlockVolumesThatPodsWriteToHaveNoMomentInCommon(t *testing.T) {
	disk := disks.New(t, disks.XFS, 0)
	block := ext4Spec()
	block.Type, block.FSType = volume.BlockDevice, ""
	var from []Source
	var into []openat.Dir
	for i, name := range []string{"a", "b"} {
		dir := newDir(t, filepath.Join(disk.Dir, name))
		f, _, err := New(volume.Sparse).Make(dir, block, 1<<20)
		fixture.Must(t, err)
		device, err := loopdev.Attach(f, loopdev.Options{})
		fixture.Must(t, errors.Join(err, f.Close()))
		t.Cleanup(func() { device.Close() })
		parsed, err := volume.ParseName(name)
		fixture.Must(t, err)
		from = append(from, Source{
			Name: volume.NewID("0123456789ab", parsed), Dir: dir, Spec: block, Bytes: 1 << 20,
		})
		into = append(into, newDir(t, filepath.Join(disk.Dir, fmt.Sprint("copy-", i))))
	}
	opts := copytree.Options{Progress: &copytree.Progress{}}
	if _, err := CopyTogether(t.Context(), from, into, opts, nil); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("two raw block volumes: %v, want ErrInUse", err)
	}
	meanwhile := func(context.Context) error { return nil }
	_, err := CopyTogether(t.Context(), from[:1], into[:1], opts, meanwhile)
	if !errors.Is(err, volume.ErrInUse) {
		t.Errorf("a raw block volume beside directories: %v, want ErrInUse", err)
	}
	files, err := CopyTogether(t.Context(), from[:1], into[:1], opts, nil)
	if err != nil || len(files) != 1 {
		t.Fatalf("one raw block volume: %v", err)
	}
	files[0].Close()
}
