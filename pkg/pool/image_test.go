package pool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/groupsync"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// createImage creates an image volume called v.
func createImage(t *testing.T, p *Pool, spec volume.Spec, size volume.SizeRange) volume.Volume {
	t.Helper()
	parsed, err := volume.ParseName("v")
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Create(t.Context(), volume.CreateRequest{Name: parsed, Size: size, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func imageSpec(fsType volume.FSType) volume.Spec {
	return volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Mode:       0o755,
		Backing:    volume.ImageBacking,
		FSType:     fsType,
		Allocation: volume.Sparse,
	}
}

func TestImageIsAsLargeAsItsRecordSaysAlsoAfterARestart(t *testing.T) {
	p := newPool(t)
	v := createImage(t, p, imageSpec(volume.Ext4), volume.SizeRange{Required: 1})
	for range 2 {
		f, err := openImage(p, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		f.Close()
		if err != nil || info.Size() != volume.Ext4.MinimumBytes() || v.CapacityBytes != info.Size() {
			t.Errorf("the image has %d bytes, %v, the volume %d", info.Size(), err, v.CapacityBytes)
		}
		wantLedger(t, p, v.CapacityBytes, 0)
		if status, err := p.Status(); status.Unenforced != 0 || err != nil {
			t.Errorf("%d volumes are unenforced, %v, want none", status.Unenforced, err)
		}
		p = restart(t, p)
	}
	remove(t, p, v.ID)
	waitPurged(t, p)
	wantLedger(t, p, 0, 0)
}

func TestImageOfAnotherSizeThanItsRecordIsNotUsed(t *testing.T) {
	p := newPool(t)
	v := createImage(t, p, imageSpec(volume.Ext4), volume.SizeRange{})
	if err := os.Truncate(dataPath(p, v.ID), v.CapacityBytes-4096); err != nil {
		t.Fatal(err)
	}
	if f, err := openImage(p, v.ID); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("got %v, %v, want ErrCorrupt", f, err)
	}
	p = restart(t, p)
	if status, err := p.Status(); status.Unenforced != 1 || err != nil {
		t.Errorf("%d volumes are unenforced, %v, want 1", status.Unenforced, err)
	}
}

func TestDeletedImageIsPurgedOnlyWhenNoDeviceHasIt(t *testing.T) {
	p := newPool(t)
	v := createImage(t, p, imageSpec(""), volume.SizeRange{Required: mib})
	image, err := openImage(p, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	for _, access := range []loopdev.Access{loopdev.ReadWrite, loopdev.ReadOnly} {
		d, err := loopdev.Attach(image, loopdev.Options{Access: access})
		if err != nil {
			t.Fatal(err)
		}
		if err := checkDetached(p.volumes.dir, v.ID.Dir()); !errors.Is(err, volume.ErrInUse) {
			t.Errorf("attached: %v, want ErrInUse", err)
		}
		d.Close()
	}
	if err := checkDetached(p.volumes.dir, v.ID.Dir()); err != nil {
		t.Fatal(err)
	}
	d, err := loopdev.Attach(image, loopdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p.trash.RetryAfter = 10 * time.Millisecond
	// as a caller would that has not checked
	taken, err := p.volumes.moveToTrash(mustEntry(t, p, v.ID))
	if err != nil {
		t.Fatal(err)
	}
	p.trash.Queue(taken)
	eventually(t, "the purge stops at the device",
		func() bool { return status(t, p).PurgesFailing == 1 })
	wantLedger(t, p, 0, v.CapacityBytes)
	d.Close()
	waitPurged(t, p)
	wantLedger(t, p, 0, 0)
}

func mustEntry(t *testing.T, p *Pool, id volume.ID) *catalog.Entry {
	t.Helper()
	e, ok := p.volumes.catalog.Get(id.Dir())
	if !ok {
		t.Fatalf("%s is not in the catalog", id)
	}
	return e
}

func TestPreallocatedImageThatDoesNotFitIsRefusedAndLeavesNothing(t *testing.T) {
	p := newPool(t)
	spec := imageSpec(volume.Ext4)
	spec.Allocation = volume.Preallocated
	name, err := volume.ParseName("v")
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Create(t.Context(),
		volume.CreateRequest{Name: name, Size: volume.SizeRange{Required: 1 << 50}, Spec: spec})
	if !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	wantEntries(t, p, layout.VolumesDir)
	wantLedger(t, p, 0, 0)
}

func TestImageGrowsAndAnExpansionThatFailsLeavesItAsItWas(t *testing.T) {
	p := newPool(t)
	v := createImage(t, p, imageSpec(""), volume.SizeRange{Required: mib})
	if got, err := expand(t, p, v.ID, mib+1, 0); got != mib+4096 || err != nil {
		t.Errorf("expanded to %d, %v", got, err)
	}
	if _, err := expand(t, p, v.ID, 2*mib+1, 2*mib+2); !errors.Is(err, volume.ErrOutOfRange) {
		t.Errorf("to a size that no image has: %v, want ErrOutOfRange", err)
	}
	// The record cannot be written, because a directory that is not empty has its temporary name.
	if err := os.MkdirAll(
		filepath.Join(filepath.Dir(dataPath(p, v.ID)), record.VolumeFile+".tmp", "full"),
		0o700,
	); err != nil {
		t.Fatal(err)
	}
	if _, err := expand(t, p, v.ID, 4*mib, 0); err == nil {
		t.Error("expanded without a record")
	}
	info, err := os.Stat(dataPath(p, v.ID))
	if err != nil || info.Size() != mib+4096 {
		t.Errorf("the image has %d bytes, %v", info.Size(), err)
	}
	wantLedger(t, p, mib+4096, 0)
}

func TestImageThatCannotBeLookedAtIsNotSaidToBeDetached(t *testing.T) {
	p := newPool(t)
	unreadable, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	unreadable.Close()
	if err := checkDetached(openat.Dir{File: unreadable}, "v"); err == nil {
		t.Error("CheckDetached succeeded although it could not look")
	}
	if err := checkDetached(p.volumes.dir, "none"); err != nil {
		t.Errorf("a volume without an image: %v", err)
	}
}

// brokenDisk lets every fsync of a directory fail, until the test repairs the disk.
func brokenDisk(p *Pool) (mend func()) {
	whole := p.commits
	p.commits = groupsync.New(func(*os.File) error { return unix.EIO })
	return func() { p.commits = whole }
}

func TestImageThatGrewStaysAsLargeAsItsRecordAlsoWhenTheFsyncFails(t *testing.T) {
	p := newPool(t)
	v := createImage(t, p, imageSpec(""), volume.SizeRange{Required: mib})
	mend := brokenDisk(p)
	for range 2 { // the second call finds the new record, which is still not durable
		if _, err := expand(t, p, v.ID, 2*mib, 0); !errors.Is(err, unix.EIO) {
			t.Errorf("without an fsync: %v, want EIO", err)
		}
		if f, err := openImage(p, v.ID); !errors.Is(err, unix.EIO) {
			t.Errorf("opened %v, %v, want EIO", f, err)
		}
	}
	wantLedger(t, p, 2*mib, 0)
	mend()
	if got, err := expand(t, p, v.ID, 2*mib, 0); got != 2*mib || err != nil {
		t.Errorf("expanded to %d, %v", got, err)
	}
	for range 2 {
		f, err := openImage(p, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		wantLedger(t, p, 2*mib, 0)
		p = restart(t, p)
	}
}

func TestFilesystemWhoseRecordIsNotDurableIsNotUsed(t *testing.T) {
	p := newPool(t)
	v := createImage(t, p, imageSpec(volume.Ext4), volume.SizeRange{})
	mend := brokenDisk(p)
	for range 2 {
		if err := setFilesystemBytes(p, v.ID, v.CapacityBytes); !errors.Is(err, unix.EIO) {
			t.Errorf("without an fsync: %v, want EIO", err)
		}
	}
	if f, err := openImage(p, v.ID); !errors.Is(err, unix.EIO) {
		t.Errorf("opened %v, %v, want EIO", f, err)
	}
	if v, err := p.Get(v.ID); v.FilesystemBytes != v.CapacityBytes || err != nil {
		t.Errorf("memory says that the filesystem has %d bytes, %v", v.FilesystemBytes, err)
	}
	mend()
	if err := setFilesystemBytes(p, v.ID, v.CapacityBytes); err != nil {
		t.Error(err)
	}
}

func TestRecordFromBeforeThereWereImagesIsADirectorys(t *testing.T) {
	content := []byte(
		`{"formatVersion":1,"name":"v","spec":{"type":"DirectoryOrCreate","mode":493,"uid":0,"gid":0},"capacityBytes":1048576}`,
	)
	v, err := record.DecodeVolume("0123456789ab", "v", content)
	if want := (volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755}); v.Spec != want ||
		err != nil {
		t.Errorf("got %+v, %v, want %+v", v.Spec, err, want)
	}
}

// A driver of a version without images would take such a volume for a file volume, or for a damaged
// directory.
func TestRecordOfAnImageIsRefusedByDriversFromBeforeThereWereImages(t *testing.T) {
	p := newPool(t)
	for version, v := range map[string]volume.Volume{
		`"formatVersion": 1,`: create(t, p, "directory", mib),
		`"formatVersion": 2,`: createImage(t, p, imageSpec(volume.Ext4), volume.SizeRange{}),
	} {
		path := filepath.Join(p.opts.Path, layout.VolumesDir, v.ID.Dir(), record.VolumeFile)
		content, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(content), version) {
			t.Errorf("the record of %s is\n%s%v, want %s", v.ID, content, err, version)
		}
		old := strings.Replace(string(content), `"formatVersion": 2`, `"formatVersion": 1`,
			1) // as in the records of the first images
		if got, err := record.DecodeVolume(
			p.id,
			v.ID.Dir(),
			[]byte(old),
		); got.Spec != v.Spec ||
			err != nil {
			t.Errorf("with version 1 it is %+v, %v", got.Spec, err)
		}
	}
}
