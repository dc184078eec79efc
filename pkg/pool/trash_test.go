package pool

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/test/disks"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
)

func TestDeletedVolumeStaysInTheTrashForItsRetention(t *testing.T) {
	// Filesystems differ in how they keep the time of the deletion.
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			closePool(t, p)
			p.opts.TrashRetention = time.Hour
			p = openPool(t, p.opts)
			v := create(t, p, "v", mib)
			writeTree(t, dataPath(p, v.ID), map[string]string{"file": "precious"})
			remove(t, p, v.ID)
			create(t, p, "v", mib) // the name is free at once
			p = restart(t, p)
			trash := filepath.Join(p.opts.Path, layout.TrashDir)
			deleted := entries(t, trash)
			if len(deleted) != 1 || !strings.HasPrefix(deleted[0], "v.") {
				t.Fatalf("trash/ has %q", deleted)
			}
			if got := listTree(t, trash); got[deleted[0]+"/data/file"] != "precious" ||
				got[deleted[0]+"/"+record.VolumeFile] == "" {
				t.Errorf("trash/ has %q", got)
			}
			closePool(t, p)
			age := time.Since(deletedAt(t, filepath.Join(trash, deleted[0])))
			if age < 0 || age > time.Minute {
				t.Errorf("it was deleted %s ago", age)
			}
			p.opts.TrashRetention = age + 200*time.Millisecond
			waitPurged(t, openPool(t, p.opts))
		})
	}
}

// Entries that a crash has left in tmp/ are purged despite the retention: nobody has deleted them,
// and an unfinished snapshot may keep blocks of its volume.
func TestWhatACrashLeftUnfinishedIsNotKeptForTheRetention(t *testing.T) {
	p := newPool(t)
	closePool(t, p)
	writeTree(t, filepath.Join(p.opts.Path, layout.TmpDir),
		map[string]string{"v.123/data/file": "half", "s-s.123/data/file": "half"})
	p.opts.TrashRetention = time.Hour
	p = openPool(t, p.opts)
	waitPurged(t, p)
	wantEntries(t, p, layout.TmpDir)
}

// deletedAt returns when an entry came to the trash.
func deletedAt(t *testing.T, path string) time.Time {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return time.Unix(st.Ctim.Unix())
}

func TestDeleteOfAnAbsentVolumeIsNoError(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	for range 3 {
		remove(t, p, v.ID)
	}
	waitPurged(t, p)
	wantLedger(t, p, 0, 0)
}

// Neither a delete nor a stop waits until 100,000 files are removed. The space of the files is
// promised to nobody before it is free.
func TestPurgeOfALargeVolumeIsInterruptedAndResumed(t *testing.T) {
	const files = 100_000
	p := newPool(t)
	v := create(t, p, "v", mib)
	data := dataPath(p, v.ID)
	plantMany(t, data, files)
	remove(t, p, v.ID)
	deleted := filepath.Join(
		p.opts.Path,
		layout.TrashDir,
		entries(t, filepath.Join(p.opts.Path, layout.TrashDir))[0],
	)
	eventually(t, "the purge begins",
		func() bool { return len(entries(t, filepath.Join(deleted, backend.Data))) < files/manyInADir })
	closePool(t, p)
	if left := entries(t, filepath.Join(deleted, backend.Data)); len(left) == 0 {
		t.Error("the stop waited for the whole purge")
	}
	p = openPool(t, p.opts)
	if s := status(t, p); s.TrashBytes != mib &&
		len(entries(t, filepath.Join(p.opts.Path, layout.TrashDir))) > 0 {
		t.Errorf("%d bytes are in the trash after a restart, want %d", s.TrashBytes, mib)
	}
	waitPurged(t, p)
	wantLedger(t, p, 0, 0)
}

const manyInADir = 1000

// plantMany makes many files, manyInADir in each directory. They are hard links, which are made
// fastest and are removed like other files.
func plantMany(t *testing.T, root string, files int) {
	t.Helper()
	for n := 0; n < files; n += manyInADir {
		sub := filepath.Join(root, strconv.Itoa(n))
		writeTree(t, sub, map[string]string{"0": "content"})
		d, err := os.Open(sub)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < manyInADir; i++ {
			if err := unix.Linkat(int(d.Fd()), "0", int(d.Fd()), strconv.Itoa(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		d.Close()
	}
}

// A crash during a purge must not lose the bytes of the remaining data. So the purge removes the
// record last.
func TestRecordOutlivesTheDataItCounts(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	source := t.TempDir()
	point := filepath.Join(dataPath(p, v.ID), "mnt")
	writeTree(t, point, map[string]string{"/": ""})
	if err := unix.Mount(source, point, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	remove(t, p, v.ID)
	trash := filepath.Join(p.opts.Path, layout.TrashDir)
	point = filepath.Join(trash, entries(t, trash)[0], backend.Data, "mnt")
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	eventually(t, "the purge stops at the mount",
		func() bool { return status(t, p).PurgesFailing == 1 })
	p = restart(t, p)
	wantLedger(t, p, 0, mib)
	if err := unix.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	p = restart(t, p)
	waitPurged(t, p)
}
