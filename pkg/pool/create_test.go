package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestVolumeHasExactlyItsModeAndOwner(t *testing.T) {
	specs := []volume.Spec{
		{Type: volume.DirectoryOrCreate, Mode: 0o755},
		{Type: volume.DirectoryOrCreate, Mode: 0},
		{Type: volume.DirectoryOrCreate, Mode: 0o777, UID: 1000, GID: 2000},
		{Type: volume.DirectoryOrCreate, Mode: 0o2770, UID: 1, GID: 4294967294},
		{Type: volume.DirectoryOrCreate, Mode: 0o3777, UID: 4294967294},
		{Type: volume.FileOrCreate, Mode: 0o644},
		{Type: volume.FileOrCreate, Mode: 0},
		{Type: volume.FileOrCreate, Mode: 0o777, UID: 1000, GID: 2000},
	}
	for _, fstype := range disks.Types() {
		disk := disks.New(t, fstype, 0)
		p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
		for _, umask := range []int{0, 0o077, 0o777} {
			for i, spec := range specs {
				t.Run(
					fmt.Sprintf("%s umask %03o %s %04o", fstype, umask, spec.Type, spec.Mode),
					func(t *testing.T) {
						req := request(t, fmt.Sprintf("v-%d-%d", umask, i), 1)
						req.Spec = spec
						defer unix.Umask(unix.Umask(umask)) // no test of this package is parallel
						v, err := p.Create(t.Context(), req)
						if err != nil {
							t.Fatal(err)
						}
						wantMade(t, p, v, spec)
					},
				)
			}
		}
		wantEntries(t, p, layout.TmpDir)
		closePool(t, p)
	}
}

func wantMade(t *testing.T, p *Pool, v volume.Volume, spec volume.Spec) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(dataPath(p, v.ID), &st); err != nil {
		t.Fatal(err)
	}
	kind := map[volume.Type]uint32{
		volume.DirectoryOrCreate: unix.S_IFDIR, volume.FileOrCreate: unix.S_IFREG,
	}[spec.Type]
	if st.Mode != kind|spec.Mode || st.Uid != spec.UID || st.Gid != spec.GID {
		t.Errorf("data has mode %#o and owner %d:%d, want %#o and %d:%d", st.Mode, st.Uid, st.Gid,
			kind|spec.Mode, spec.UID, spec.GID)
	}
	if kind == unix.S_IFREG && st.Size != 0 {
		t.Errorf("a new file has %d bytes", st.Size)
	}
	data, err := openData(p, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	data.Close()
}

// wantRecorded reads the record, which has also the facts that memory does not keep.
func wantRecorded(t *testing.T, p *Pool, id volume.ID, owner volume.Owner, bytes int64) {
	t.Helper()
	v, err := p.volumes.read(p.volumes.dir, id.Dir(), id.Dir())
	if v.Owner != owner || v.CapacityBytes != bytes || err != nil {
		t.Errorf("the record says %+v, %v; want owner %+v and %d bytes", v, err, owner, bytes)
	}
}

func TestCreateTwiceIsOneVolume(t *testing.T) {
	p := newPool(t)
	req := request(t, "a name/that is hashed", mib)
	req.Owner = volume.Owner{Namespace: "shop", Claim: "data", PV: "pvc-1"}
	first, err := p.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	writeTree(t, dataPath(p, first.ID), map[string]string{"file": "precious"})
	first.Owner = volume.Owner{} // only the record has the owner
	// Other requests that the same volume answers.
	for _, size := range []volume.SizeRange{
		req.Size, {}, {Required: 1}, {Limit: 2 * mib}, {Required: mib, Limit: 2 * mib},
	} {
		again := req
		again.Size, again.Owner = size, volume.Owner{}
		if v, err := p.Create(t.Context(), again); v != first || err != nil {
			t.Errorf("size %+v: %+v, %v, want %+v", size, v, err, first)
		}
	}
	wantLedger(t, p, mib, 0)
	p = restart(t, p)
	if v, err := p.Create(t.Context(), req); v != first || err != nil {
		t.Errorf("after a restart: %+v, %v, want %+v", v, err, first)
	}
	wantLedger(t, p, mib, 0)
	wantRecorded(t, p, first.ID, req.Owner, mib)
	if _, err := expand(t, p, first.ID, 2*mib, 0); err != nil {
		t.Fatal(err)
	}
	wantRecorded(t, p, first.ID, req.Owner, 2*mib)
	if content, err := os.ReadFile(
		filepath.Join(dataPath(p, first.ID), "file"),
	); string(
		content,
	) != "precious" {
		t.Errorf("the data is %q, %v", content, err)
	}
}

func TestSameNameForOtherThingsIsIncompatible(t *testing.T) {
	p := newPool(t)
	first := create(t, p, "v", mib)
	for _, tc := range []struct {
		title string
		size  volume.SizeRange
		spec  volume.Spec
	}{
		{"larger", volume.SizeRange{Required: mib + 1}, directory},
		{"smaller", volume.SizeRange{Limit: mib - 1}, directory},
		{"file", volume.SizeRange{}, volume.Spec{Type: volume.FileOrCreate, Mode: 0o755}},
		{"mode", volume.SizeRange{}, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o700}},
		{"user", volume.SizeRange{}, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755, UID: 1}},
		{"group", volume.SizeRange{}, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755, GID: 1}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			req := volume.CreateRequest{Name: first.Name, Size: tc.size, Spec: tc.spec}
			if v, err := p.Create(t.Context(), req); !errors.Is(err, volume.ErrIncompatible) {
				t.Errorf("%+v, %v, want ErrIncompatible", v, err)
			}
		})
	}
	wantLedger(t, p, mib, 0)
}

// The pool refuses an inode limit that its filesystem cannot enforce.
func TestLimitOfInodesIsRefusedWhereNothingEnforcesIt(t *testing.T) {
	req := request(t, "v", mib)
	req.Spec.Inodes = 100
	btrfs := disks.New(t, disks.Btrfs, 0)
	for _, p := range []*Pool{
		newPool(t), openPool(t, Options{Name: "p", Path: filepath.Join(btrfs.Dir, "pool")}),
	} {
		_, err := p.Create(t.Context(), req)
		if !errors.Is(err, volume.ErrNoSpace) || !strings.Contains(err.Error(), `"inodes"`) {
			t.Errorf("on %s: %v, want ErrNoSpace naming the parameter", p.Filesystem().Backend, err)
		}
		wantLedger(t, p, 0, 0)
	}
}

func TestNameWithACallUnderWayIsBusy(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	unlock, err := p.volumes.catalog.Lock(v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), request(t, "v", mib)); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("create: %v, want ErrBusy", err)
	}
	if err := p.Delete(t.Context(), v.ID); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("delete: %v, want ErrBusy", err)
	}
	create(t, p, "another", mib)
	unlock()
	remove(t, p, v.ID)
}

func TestCancelledCallLeavesNothing(t *testing.T) {
	p := newPool(t)
	kept := create(t, p, "kept", mib)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Create(ctx, request(t, "v", mib)); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v, want context.Canceled", err)
	}
	if err := p.Delete(ctx, kept.ID); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v, want context.Canceled", err)
	}
	wantEntries(t, p, layout.TmpDir)
	wantEntries(t, p, layout.VolumesDir, "kept")
	wantLedger(t, p, mib, 0)
}

// Somebody may put a directory into volumes/ while the driver runs. The driver neither replaces
// that directory nor returns it as the requested volume.
func TestDirectoryPutThereByHandIsNotTouched(t *testing.T) {
	p := newPool(t)
	byHand := map[string]string{"v/": "", "v/data/": "", "v/data/file": "precious"}
	writeTree(t, filepath.Join(p.opts.Path, layout.VolumesDir), byHand)
	if v, err := p.Create(t.Context(), request(t, "v", mib)); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("%+v, %v, want ErrCorrupt", v, err)
	}
	got := listTree(t, filepath.Join(p.opts.Path, layout.VolumesDir))
	if got["v/data/file"] != "precious" ||
		len(got) != len(byHand) {
		t.Errorf("volumes/ has %q", got)
	}
	waitPurged(t, p)
	wantLedger(t, p, 0, 0)
}

func TestVolumeMovedToAnotherPoolBelongsThere(t *testing.T) {
	root := t.TempDir()
	from := openPool(t, Options{Name: "a", Path: filepath.Join(root, "a")})
	to := openPool(t, Options{Name: "b", Path: filepath.Join(root, "b")})
	v := create(t, from, "v", mib)
	closePool(t, from)
	closePool(t, to)
	if err := os.Rename(
		filepath.Join(from.opts.Path, layout.VolumesDir, "v"),
		filepath.Join(to.opts.Path, layout.VolumesDir, "v"),
	); err != nil {
		t.Fatal(err)
	}
	from, to = openPool(t, from.opts), openPool(t, to.opts)
	if _, err := from.Get(v.ID); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("in the old pool: %v, want ErrNotFound", err)
	}
	moved, err := to.Get(volume.NewID(to.ID(), v.Name))
	if err != nil || moved.Name != v.Name || moved.CapacityBytes != mib {
		t.Errorf("in the new pool: %+v, %v", moved, err)
	}
}

func TestRacingCreatesNeverOversell(t *testing.T) {
	const clients, size = 32, 4 * mib
	disk := disks.New(t, disks.Ext4, 0)
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
	// Room for ten volumes, without the few blocks that their records take.
	p.opts.ReserveBytes = status(t, p).AvailableBytes - 10*size - size/2
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		req := request(t, fmt.Sprintf("v-%d", i), size)
		wg.Go(func() { _, errs[i] = p.Create(t.Context(), req) })
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		switch {
		case err == nil:
			made++
		case !errors.Is(err, volume.ErrNoSpace):
			t.Error(err)
		}
	}
	if made != 10 {
		t.Errorf("%d volumes were made where 10 have room", made)
	}
	wantLedger(t, p, 10*size, 0)
	wantEntries(t, p, layout.TmpDir)
}

func TestRacingCreatesOfOneNameMakeOneVolume(t *testing.T) {
	const clients = 32
	p := newPool(t)
	req := request(t, "v", mib)
	volumes, errs := make([]volume.Volume, clients), make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { volumes[i], errs[i] = p.Create(t.Context(), req) })
	}
	wg.Wait()
	want, err := p.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		if err == nil && volumes[i] != want || err != nil && !errors.Is(err, volume.ErrBusy) {
			t.Errorf("client %d got %+v, %v, want ErrBusy or %+v", i, volumes[i], err, want)
		}
	}
	wantLedger(t, p, mib, 0)
	wantEntries(t, p, layout.VolumesDir, "v")
}

func isNoSpace(err error) bool {
	return errors.Is(err, volume.ErrNoSpace) || errors.Is(err, syscall.ENOSPC)
}

// TestFullFilesystemLeaksNothing frees one more block each time, so that the disk is full at
// different steps of a create.
func TestFullFilesystemLeaksNothing(t *testing.T) {
	size := map[string]int64{disks.Ext4: 16 * mib, disks.XFS: 300 * mib, disks.Btrfs: 128 * mib}
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, size[fstype], unreserved(fstype)...)
			// With this overcommit the ledger refuses nothing, so that the disk does.
			p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), Overcommit: 1000})
			kept := create(t, p, "kept", 1)
			filler := fill(t, filepath.Join(disk.Dir, "filler"))
			byDisk, block := 0, blockSize(t, disk)
			for blocks := range int64(16) {
				req := request(t, strings.Repeat("x", 64-1)+string(rune('a'+blocks)), 1)
				_, err := p.Create(t.Context(), req)
				switch {
				case err == nil:
					remove(t, p, volume.NewID(p.ID(), req.Name))
					waitPurged(t, p)
				case errors.Is(err, syscall.ENOSPC):
					byDisk++
				case isNoSpace(err):
				default:
					t.Errorf("with %d blocks: %v, want ErrNoSpace or ENOSPC", blocks, err)
				}
				waitPurged(t, p)
				wantLedger(t, p, 1, 0)
				giveBack(t, filler, block)
			}
			// btrfs reserves room for its metadata that files cannot fill
			if byDisk == 0 && fstype != disks.Btrfs {
				t.Error("the disk refused no create")
			}
			if err := os.Remove(filler.Name()); err != nil {
				t.Fatal(err)
			}
			filler.Close()
			// btrfs frees blocks with its next transaction
			if err := unix.Syncfs(p.layout.Root.FD()); err != nil {
				t.Fatal(err)
			}
			create(t, p, "after", 1)
			p = restart(t, p)
			wantEntries(t, p, layout.VolumesDir, "after", kept.ID.Dir())
		})
	}
}

// unreserved lets ext4 reserve no blocks for root, so that the ledger counts the same free blocks
// as the disk.
func unreserved(fstype string) []disks.Option {
	if fstype == disks.Ext4 {
		return []disks.Option{disks.MkfsArgs("-m", "0")}
	}
	return nil
}

// fill makes a file that takes all free space.
func fill(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	takeAll(t, f, 0)
	return f
}

// takeAll extends a file over all free space, from an offset on.
func takeAll(t *testing.T, f *os.File, size int64) {
	t.Helper()
	for chunk := int64(64 * mib); chunk >= 512; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, chunk); {
		case err == nil:
			size += chunk
		case errors.Is(err, syscall.ENOSPC):
			chunk /= 2
		default:
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func blockSize(t *testing.T, disk disks.Disk) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(disk.Dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Bsize
}

func giveBack(t *testing.T, f *os.File, bytes int64) {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(max(0, info.Size()-bytes)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestFilesystemOutOfInodesLeaksNothing(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 16*mib, disks.MkfsArgs("-N", "64"))
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
	var made []volume.Volume
	for {
		v, err := p.Create(t.Context(), request(t, fmt.Sprintf("v-%02d", len(made)), 1))
		if err != nil {
			if !isNoSpace(err) {
				t.Errorf("%v: want ErrNoSpace or ENOSPC", err)
			}
			break
		}
		made = append(made, v)
	}
	waitPurged(t, p)
	wantLedger(t, p, int64(len(made)), 0)
	remove(t, p, made[0].ID)
	waitPurged(t, p)
	create(t, p, "after", 1)
}
