package pool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestOvercommitAndReserveBoundWhatIsPromised(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 64*mib, disks.MkfsArgs("-m", "0"))
	for _, tc := range []struct {
		title      string
		overcommit float64
		reserve    int64
		// The pool may promise this part of the filesystem without what others use, minus the reserve,
		ofSize float64
		ofFree float64 // and at most this part of the free space, minus the reserve
	}{
		{"default", 0, 0, 1, 1},
		{"overcommitted", 2, 0, 2, 2},
		{"undercommitted", 0.5, 0, 0.5, 0.5},
		{"with a reserve", 0, 40 * mib, 1, 1},
		{"with both", 3, 10 * mib, 3, 3},
		{"with a reserve beyond the size", 0, 1 << 40, 1, 1},
	} {
		t.Run(tc.title, func(t *testing.T) {
			p := openPool(t, Options{
				Name:           "p",
				Path:           filepath.Join(disk.Dir, "pool"),
				Overcommit:     tc.overcommit,
				ReserveBytes:   tc.reserve,
				TrashRetention: time.Hour,
			})
			s := status(t, p)
			ours := s.SizeBytes - p.ledger.Others()
			want := max(0,
				min(int64(float64(ours)*tc.ofSize), int64(float64(s.FreeBytes)*tc.ofFree))-tc.reserve)
			if s.AvailableBytes != want {
				t.Errorf("%d bytes are available of %d, %d free, want %d", s.AvailableBytes, s.SizeBytes,
					s.FreeBytes, want)
			}
			if _, err := p.Create(t.Context(), request(t, "v", want+1)); !errors.Is(err, volume.ErrNoSpace) {
				t.Errorf("one byte more: %v, want ErrNoSpace", err)
			}
			wantLedger(t, p, 0, 0)
			closePool(t, p)
		})
	}
}

// Create grants what GetCapacity offers for a class, and not one byte more.
func TestLargestVolumeOfAKindIsTheLargestThatIsMade(t *testing.T) {
	image := volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Backing:    volume.ImageBacking,
		Allocation: volume.Sparse,
	}
	ext4, xfs, few := image, image, directory
	ext4.FSType, xfs.FSType, few.Inodes = volume.Ext4, volume.XFS, 100
	disk := disks.New(t, disks.Ext4, 200*mib, disks.MkfsArgs("-m", "0")) // no image with XFS fits
	for i, spec := range []volume.Spec{directory, few, image, ext4, xfs} {
		t.Run(fmt.Sprintf("%+v", spec), func(t *testing.T) {
			p := openPool(t,
				Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), ReserveBytes: 4*mib + 1})
			defer closePool(t, p)
			largest, err := p.Largest(spec)
			if err != nil {
				t.Fatal(err)
			}
			if none := p.checkInodes(spec) != nil || spec.FSType == volume.XFS; none != (largest == 0) {
				t.Errorf("the largest has %d bytes", largest)
			}
			req := request(t, fmt.Sprintf("v%d", i), largest+1)
			req.Spec, req.Size.Limit = spec, 0
			if _, err := p.Create(t.Context(), req); !errors.Is(err, volume.ErrNoSpace) {
				t.Errorf("one byte more: %v, want ErrNoSpace", err)
			}
			if largest == 0 {
				return
			}
			req.Size.Required = largest
			v, err := p.Create(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			remove(t, p, v.ID)
			waitPurged(t, p)
		})
	}
}

// A filesystem becomes read-only after errors. Then it offers no room, so that the scheduler looks
// elsewhere.
func TestReadOnlyFilesystemHasNoRoom(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 0)
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
	for _, flags := range []uintptr{0, unix.MS_RDONLY} {
		if err := unix.Mount("", disk.Dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Largest(
			directory,
		); errors.Is(err, volume.ErrUnavailable) != (flags == unix.MS_RDONLY) ||
			(got == 0) != (err != nil) {
			t.Errorf("with flags %#x the largest volume has %d bytes, %v", flags, got, err)
		}
	}
}

// The error of a call says once which pool it is about: with its path, because the pool may be gone
// from there.
func TestErrorsNameThePoolOnce(t *testing.T) {
	root := filepath.Join(t.TempDir(), "pool")
	opts := Options{Name: "fast", Path: root}
	p := openPool(t, opts)
	id := create(t, p, "v", mib).ID
	if err := os.Rename(root, root+".away"); err != nil {
		t.Fatal(err)
	}
	opts.MustExist = true
	for title, call := range map[string]func() error{
		"open":    func() error { return refused(t, opts) },
		"largest": func() error { _, err := p.Largest(directory); return err },
		"status":  func() error { _, err := p.Status(); return err },
		"path":    p.CheckAtPath,
		"create":  func() error { _, err := p.Create(t.Context(), request(t, "w", mib)); return err },
		"snapshot": func() error {
			_, err := p.CreateSnapshot(t.Context(), snapshotRequest(t, "s", id))
			return err
		},
		"expand": func() error {
			_, err := p.Expand(t.Context(), id, volume.SizeRange{Required: 2 * mib})
			return err
		},
	} {
		err := call()
		if err == nil {
			t.Errorf("%s succeeds in a pool that is not at its path", title)
			continue
		}
		named := "pool fast at " + root + ": "
		if title == "expand" {
			named = "pool fast at " + root + " from "
		}
		if strings.Count(err.Error(), "pool fast") != 1 || !strings.Contains(err.Error(), named) {
			t.Errorf("%s: %q does not have %q once", title, err, named)
		}
	}
}

// Space counts until it is free, not only until the deletion. Otherwise it would be promised twice.
func TestTrashCountsUntilItIsPurged(t *testing.T) {
	const size = 24 * mib
	disk := disks.New(t, disks.Ext4, 64*mib)
	opts := Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), TrashRetention: time.Hour}
	p := openPool(t, opts)
	first := create(t, p, "first", size)
	create(t, p, "second", size)
	remove(t, p, first.ID)
	remove(t, p, first.ID) // a retry
	wantLedger(t, p, size, size)
	for range 2 {
		if _, err := p.Create(
			t.Context(),
			request(t, "third", size),
		); !errors.Is(
			err, volume.ErrNoSpace,
		) {
			t.Errorf("while the first is in the trash: %v, want ErrNoSpace", err)
		}
		p = restart(t, p)
		wantLedger(t, p, size, size)
	}
	closePool(t, p)
	opts.TrashRetention = 0
	p = openPool(t, opts)
	waitPurged(t, p)
	create(t, p, "third", size)
	wantLedger(t, p, 2*size, 0)
}

func TestVolumeRemovedByHandGivesItsSpaceBackOnce(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	create(t, p, "w", mib)
	if err := os.RemoveAll(filepath.Join(p.opts.Path, layout.VolumesDir, "v")); err != nil {
		t.Fatal(err)
	}
	remove(t, p, v.ID)
	remove(t, p, v.ID)
	waitPurged(t, p)
	wantLedger(t, p, mib, 0)
}

func TestRestartFindsTheSameVolumesAndTheSameSums(t *testing.T) {
	p := newPool(t)
	p.opts.TrashRetention, p.trash.Retention = time.Hour, time.Hour
	var committed, trash int64
	for i := range 900 { // more than one batch of the scan
		v := create(t, p, fmt.Sprintf("volume %d", i), int64(i+1))
		if i%3 == 0 {
			remove(t, p, v.ID)
			trash += v.CapacityBytes
		} else {
			committed += v.CapacityBytes
		}
	}
	wantLedger(t, p, committed, trash)
	before := p.List("", 2000)
	p = restart(t, p)
	if after := p.List("", 2000); !slices.Equal(before, after) || len(after) != 600 ||
		status(t, p).Volumes != 600 {
		t.Errorf("%d volumes before, %d after", len(before), len(after))
	}
	wantLedger(t, p, committed, trash)
}

func TestSpaceThatOthersUseIsNotPromised(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 128*mib, disks.MkfsArgs("-m", "0"))
	if err := os.WriteFile(
		filepath.Join(disk.Dir, "somebody's"),
		make([]byte, 64*mib),
		0o600,
	); err != nil {
		t.Fatal(err)
	}
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
	size := status(t, p).AvailableBytes * 2 / 3
	if _, err := p.Create(t.Context(), request(t, "first", size)); err != nil {
		t.Fatal(err)
	}
	// The first volume is empty, so most of the disk is free. But its size is promised.
	if _, err := p.Create(
		t.Context(),
		request(t, "second", size),
	); !errors.Is(
		err, volume.ErrNoSpace,
	) {
		t.Errorf("a second volume of %d bytes: %v, with %+v", size, err, status(t, p))
	}
}

// A start counts what volumes have written. So it does not take the data of others for data of the
// volumes, and does not promise that space again.
func TestRestartPromisesNothingOfWhatOthersUse(t *testing.T) {
	const others, directorySize, imageSize, written = 200 * mib, 300 * mib, 64 * mib, 100 * mib
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, 1<<30)
			p := openPool(t,
				Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), TrashRetention: time.Hour})
			empty := status(t, p).AvailableBytes
			request := request(t, "image", imageSize)
			request.Spec = volume.Spec{
				Type:       volume.DirectoryOrCreate,
				Backing:    volume.ImageBacking,
				Allocation: volume.Sparse,
			}
			if _, err := p.Create(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			if p.Filesystem().EnforcesSizes { // otherwise the data of directories is not counted
				v := create(t, p, "directory", directorySize)
				remove(t, p, create(t, p, "deleted", directorySize).ID)
				write(t, filepath.Join(dataPath(p, v.ID), "file"), written)
			}
			write(t, filepath.Join(disk.Dir, "somebody's"), others)
			if err := unix.Syncfs(p.layout.Root.FD()); err != nil {
				t.Fatal(err)
			}
			s := status(t, p)
			const slack = 16 * mib // the filesystem's own blocks
			want := empty - others - s.CommittedBytes - s.TrashBytes
			for range 2 {
				p = restart(t, p)
				if got := status(t, p).AvailableBytes; got > want+slack || got < want-slack {
					t.Errorf("%d bytes are available, want about %d", got, want)
				}
			}
		})
	}
}

// On a filesystem without quotas the data of directories is not counted. A start must not take data
// of others for data of the volumes, and promise that space: the process before knew how much
// others use.
func TestRestartWithoutQuotasPromisesNoMoreThanBefore(t *testing.T) {
	const others, size, slack = 200 * mib, 300 * mib, mib
	disk := disks.New(t, disks.Ext4, 1<<30, disks.MkfsArgs("-m", "0"))
	somebodys := filepath.Join(disk.Dir, "somebody's")
	write(t, somebodys, others)
	// In the machine of test/vm every disk has quotas.
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), IgnoreQuota: true})
	v := create(t, p, "empty", size)
	want := status(t, p).AvailableBytes
	for range 2 {
		p = restart(t, p)
		if got := status(t, p).AvailableBytes; got > want || got < want-slack {
			t.Errorf("%d bytes are available, were %d", got, want)
		}
	}
	// Space that others free is offered again, except what may belong to a volume.
	if err := os.Remove(somebodys); err != nil {
		t.Fatal(err)
	}
	p = restart(t, p)
	if got := status(t, p).AvailableBytes; got > want+others || got < want+others-2*slack {
		t.Errorf("%d bytes are available, were %d with %d of others", got, want, others)
	}
	// A number that was measured on another filesystem is not used.
	write(t, somebodys, others)
	note := fmt.Append(nil, others, 1)
	if err := unix.Setxattr(p.opts.Path, layout.OthersAttribute, note, 0); err != nil {
		t.Fatal(err)
	}
	p = restart(t, p)
	if got := p.ledger.Others(); got > slack {
		t.Errorf("%d bytes count as used by others, want what the promises leave", got)
	}
	remove(t, p, v.ID)
}

// An unfinished copy has no record. Until it is purged its space counts as used by others. After
// the purge that space must be offered again.
func TestSpaceOfHalfACopyIsGivenBackWhenItIsPurged(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 256*mib)
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
	create(t, p, "keep", 8*mib)
	others := p.ledger.Others()
	closePool(t, p)
	half := filepath.Join(p.opts.Path, layout.TmpDir, "half.00000001", backend.Data)
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(half, "file"), 100*mib)
	p = openPool(t, p.opts)
	waitPurged(t, p)
	eventually(t, "the space of the unfinished copy no longer counts",
		func() bool { return p.ledger.Others() <= others+mib })
	create(t, p, "large", 150*mib)
}

// A filesystem frees the blocks of some files later than their names: here of an open file, on
// btrfs of a subvolume without quotas, on XFS of a file with many extents. Space that counts as
// used by others meanwhile must be offered again.
func TestSpaceThatIsFreedLateIsNotTakenForOthers(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 256*mib)
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), IgnoreQuota: true})
	before := status(t, p).AvailableBytes
	v := create(t, p, "v", 150*mib)
	late := filepath.Join(dataPath(p, v.ID), "file")
	write(t, late, 150*mib)
	f, err := os.Open(late)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	remove(t, p, v.ID)
	waitPurged(t, p)
	create(t, p, "small", mib)
	if now := status(t, p).AvailableBytes; now > before-150*mib {
		t.Fatalf("%d bytes are available while a file of 150 MiB is open, of %d", now, before)
	}
	f.Close()
	eventually(t, "the space of the file is offered again",
		func() bool { return status(t, p).AvailableBytes >= before-2*mib })
	create(t, p, "large", 150*mib)
}

// The data of a damaged volume counts as used by others at the start. After the purge that space
// must be offered again.
func TestSpaceOfADamagedVolumeIsGivenBackWhenItIsPurged(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 512*mib)
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
	create(t, p, "keep", 8*mib)
	v := create(t, p, "v", 150*mib)
	write(t, filepath.Join(dataPath(p, v.ID), "file"), 100*mib)
	s := snapshot(t, p, "s", v.ID)
	for _, path := range []string{
		layout.VolumesDir + "/v/" + record.VolumeFile, layout.SnapshotsDir + "/s/" + record.SnapshotFile,
	} {
		if err := os.Truncate(filepath.Join(p.opts.Path, path), 0); err != nil {
			t.Fatal(err)
		}
	}
	p = restart(t, p)
	remove(t, p, v.ID)
	removeSnapshot(t, p, s.ID)
	waitPurged(t, p)
	eventually(t, "what was theirs counts for nobody",
		func() bool { return status(t, p).AvailableBytes >= 400*mib })
	create(t, p, "large", 380*mib)
}
