package pool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// fullDisk describes a filesystem that a test fills.
type fullDisk struct {
	name, fstype string
	size         int64
	mkfs         []string
}

// fullDisks has a filesystem for each way to copy: block by block, by reflink, and by the
// filesystem's own snapshots. btrfs mixes metadata with data, as on small disks. Otherwise a full
// btrfs would still have room for a snapshot.
func fullDisks() []fullDisk {
	all := []fullDisk{
		{"ext4", disks.Ext4, 80 * mib, []string{"-m", "0"}},
		{"xfs", disks.XFS, 300 * mib, nil},
		{"xfs without reflinks", disks.XFS, 300 * mib, []string{"-m", "reflink=0"}},
		{"btrfs", disks.Btrfs, 128 * mib, []string{"--mixed"}},
	}
	return slices.DeleteFunc(all,
		func(d fullDisk) bool { return !slices.Contains(disks.Types(), d.fstype) })
}

// copiedVolume describes the volume that is copied on a full disk.
type copiedVolume struct {
	name string
	spec volume.Spec
	fill func(t *testing.T, data string)
}

func copiedVolumes() []copiedVolume {
	preallocated := imageSpec("")
	preallocated.Allocation = volume.Preallocated
	return []copiedVolume{
		{"directory", directory, fillDirectory},
		{"image", imageSpec(""), fillImage},
		{"preallocated image", preallocated, fillImage},
	}
}

// fillDirectory makes files that need inodes, and others that need blocks.
func fillDirectory(t *testing.T, data string) {
	t.Helper()
	tree := map[string]string{"large": strings.Repeat("content ", mib), "directory/": ""}
	for i := range 300 {
		tree[fmt.Sprintf("directory/small-%d", i)] = strings.Repeat("x", 100*i)
	}
	writeTree(t, data, tree)
}

// fillImage writes to two thirds of the image.
func fillImage(t *testing.T, data string) {
	t.Helper()
	fillHole(t, data, 4*mib, 12*mib)
}

// A copy may fill the disk at any of its steps. It leaves nothing, changes no other volume, and
// succeeds when there is room again.
func TestCopyThatFillsTheDiskLeavesNothing(t *testing.T) {
	for _, d := range fullDisks() {
		for _, v := range copiedVolumes() {
			t.Run(d.name+", "+v.name, func(t *testing.T) {
				t.Parallel()
				copyOnFullDisk(t, d, v)
			})
		}
	}
}

func copyOnFullDisk(t *testing.T, d fullDisk, c copiedVolume) {
	t.Helper()
	disk := disks.New(t, d.fstype, d.size, disks.MkfsArgs(d.mkfs...))
	// With this overcommit the ledger refuses nothing, so that the disk does.
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), Overcommit: 1e9})
	req := request(t, "v", 16*mib)
	req.Spec = c.spec
	v, err := p.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	c.fill(t, dataPath(p, v.ID))
	full := &filledPool{
		Pool:   p,
		volume: v,
		kept:   snapshot(t, p, "kept", v.ID),
		want:   digest(t, dataPath(p, v.ID)),
	}
	full.filler = fill(t, filepath.Join(disk.Dir, "filler"))
	met := 0
	for _, run := range full.copies(t) {
		met += full.untilItFits(t, run)
	}
	if met == 0 {
		t.Error("no copy met the end of the disk")
	}
}

// filledPool is a pool on a full disk, with a volume and a snapshot of the volume.
type filledPool struct {
	*Pool

	volume volume.Volume
	kept   volume.Snapshot
	want   string
	filler *os.File
}

// fullCopy is a copy that a test repeats: make returns the path of its data, and undo deletes the
// copy.
type fullCopy struct {
	name string
	make func() (data string, err error)
	undo func() error
}

func (f *filledPool) copies(t *testing.T) []fullCopy {
	t.Helper()
	taken := snapshotRequest(t, "s", f.volume.ID)
	taking := fullCopy{name: "snapshot"}
	taking.make = func() (string, error) {
		s, err := f.CreateSnapshot(t.Context(), taken)
		return snapshotPath(f.Pool, s.ID), err
	}
	taking.undo = func() error {
		return f.DeleteSnapshot(t.Context(), volume.NewSnapshotID(f.ID(), taken.Name))
	}
	return []fullCopy{
		taking,
		f.making(t, "restore", volume.FromSnapshot(f.kept.ID)),
		f.making(t, "clone", volume.FromVolume(f.volume.ID)),
	}
}

func (f *filledPool) making(t *testing.T, name string, source volume.Source) fullCopy {
	t.Helper()
	req := from(t, name, source, f.volume.CapacityBytes)
	req.Spec = f.volume.Spec
	return fullCopy{
		name: name,
		make: func() (string, error) {
			v, err := f.CreateFrom(t.Context(), req, only{f.Pool})
			return dataPath(f.Pool, v.ID), err
		},
		undo: func() error { return f.Delete(t.Context(), volume.NewID(f.ID(), req.Name)) },
	}
}

// untilItFits repeats the copy with more room each time, so that the disk is full at different
// steps of the copy. It returns how often the disk was full.
func (f *filledPool) untilItFits(t *testing.T, c fullCopy) (met int) {
	t.Helper()
	refill(t, f.filler)
	for room := int64(4 << 10); ; room *= 4 {
		data, err := c.make()
		if err == nil {
			f.wantCopied(t, c, data)
			return met
		}
		if errors.Is(err, syscall.ENOSPC) {
			met++
		} else if !isNoSpace(err) {
			t.Fatalf("%s: %v, want ENOSPC", c.name, err)
		}
		f.wantNothingBut(t, c.name)
		if room > 64*mib {
			t.Fatalf("%s does not fit into %d bytes: %v", c.name, room, err)
		}
		giveBack(t, f.filler, room)
	}
}

// wantCopied compares the copy with its source, and deletes the copy.
func (f *filledPool) wantCopied(t *testing.T, c fullCopy, data string) {
	t.Helper()
	if got := digest(t, data); got != f.want {
		t.Errorf("%s: the copy differs from the source", c.name)
	}
	if err := c.undo(); err != nil {
		t.Fatal(err)
	}
	f.wantNothingBut(t, c.name)
}

// wantNothingBut checks that the pool has only the volume and its snapshot, unchanged.
func (f *filledPool) wantNothingBut(t *testing.T, after string) {
	t.Helper()
	waitPurged(t, f.Pool)
	wantEntries(t, f.Pool, layout.TmpDir)
	wantEntries(t, f.Pool, layout.SnapshotsDir, "kept")
	wantEntries(t, f.Pool, layout.VolumesDir, "v")
	wantLedger(t, f.Pool, f.volume.CapacityBytes+f.kept.HeldBytes, 0)
	for _, data := range []string{dataPath(f.Pool, f.volume.ID), snapshotPath(f.Pool, f.kept.ID)} {
		if digest(t, data) != f.want {
			t.Errorf("after %s %s was changed", after, data)
		}
	}
}

// refill extends the file over all blocks that have become free.
func refill(t *testing.T, f *os.File) {
	t.Helper()
	// btrfs frees blocks with its next transaction
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	takeAll(t, f, info.Size())
}

// digest returns a hash of a file, or of all files of a directory.
func digest(t *testing.T, data string) string {
	t.Helper()
	h := sha256.New()
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	if !info.IsDir() {
		content, err := os.ReadFile(data)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(content)
		return string(h.Sum(nil))
	}
	tree := listTree(t, data)
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		fmt.Fprintf(h, "%q: %d\n", name, len(tree[name]))
		h.Write([]byte(tree[name]))
	}
	return string(h.Sum(nil))
}

// A copy that exceeds a quota leaves nothing either. Here the source holds more than its size,
// because its pool does not enforce sizes.
func TestCopyThatMeetsAQuotaLeavesNothing(t *testing.T) {
	lax := poolOn(t, disks.Ext4).opts
	lax.Path += "-lax"
	lax.IgnoreQuota = true
	source := openPool(t, lax)
	v := create(t, source, "v", 4*mib)
	write(t, filepath.Join(dataPath(source, v.ID), "file"), 128*mib)
	want := digest(t, dataPath(source, v.ID))
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		_, err := p.CreateFrom(t.Context(), from(t, "clone", volume.FromVolume(v.ID), 4*mib),
			only{p, source})
		wantErr := volume.ErrOutOfRange
		if p.Filesystem().Backend == "btrfs" {
			wantErr = syscall.EDQUOT
		}
		if !errors.Is(err, wantErr) {
			t.Errorf("%v, want %v", err, wantErr)
		}
		waitPurged(t, p)
		wantEntries(t, p, layout.TmpDir)
		wantEntries(t, p, layout.VolumesDir)
		wantLedger(t, p, 0, 0)
		if digest(t, dataPath(source, v.ID)) != want {
			t.Error("the source was changed")
		}
	})
}
