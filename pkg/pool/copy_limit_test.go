package pool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// treadmill is a pod that writes ahead of the copy of its file, and frees the blocks that have been
// copied. So the file never has more than some chunks.
type treadmill struct {
	t    *testing.T
	file *os.File
	next int64
}

// runAhead makes the file before the copy begins.
func runAhead(t *testing.T, dir string) *treadmill {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "endless"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	pod := &treadmill{t: t, file: f}
	if err := errors.Join(pod.WaitN(t.Context(), 0), f.Truncate(400*mib)); err != nil {
		t.Fatal(err)
	}
	return pod
}

func (m *treadmill) WaitN(ctx context.Context, _ int) error {
	const chunk = copytree.MaxChunk
	_, err := m.file.WriteAt([]byte(strings.Repeat("endless ", chunk/8)), m.next)
	if behind := m.next - 2*chunk; err == nil && behind >= 0 {
		err = unix.Fallocate(int(m.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, behind,
			chunk)
	}
	m.next += chunk
	return errors.Join(err, ctx.Err())
}

// growing returns the copies of a volume of 16 MiB that the tests try.
func growing(t *testing.T, p *Pool, v volume.Volume) map[string]func() error {
	t.Helper()
	return map[string]func() error{
		"snapshot": func() error {
			_, err := p.CreateSnapshot(t.Context(), snapshotRequest(t, "s", v.ID))
			return err
		},
		"clone": func() error {
			_, err := p.CreateFrom(t.Context(), from(t, "c", volume.FromVolume(v.ID), v.CapacityBytes),
				only{p})
			return err
		},
	}
}

// ext4 exempts the driver from quotas, and a plain pool has none. So the copy must limit itself.
func TestPodThatWritesAheadOfACopyFillsNoDisk(t *testing.T) {
	p := poolOn(t, disks.Ext4)
	v := create(t, p, "v", 16*mib)
	before := status(t, p).FreeBytes
	for name, run := range growing(t, p, v) {
		pod := runAhead(t, dataPath(p, v.ID))
		p.copier.Throttle.Limiter = pod
		if err := run(); !errors.Is(err, volume.ErrOutOfRange) ||
			!strings.Contains(err.Error(), "expand it") {
			t.Errorf("%s: %v, want ErrOutOfRange and what to do", name, err)
		}
		if pod.next < v.CapacityBytes || pod.next > 2*v.CapacityBytes {
			t.Errorf("%s: the copy ended after %d bytes, of a volume of %d", name, pod.next, v.CapacityBytes)
		}
		if err := os.Remove(pod.file.Name()); err != nil {
			t.Fatal(err)
		}
		pod.file.Close()
		waitPurged(t, p)
		wantEntries(t, p, layout.TmpDir)
		wantEntries(t, p, layout.SnapshotsDir)
		wantEntries(t, p, layout.VolumesDir, "v")
		wantLedger(t, p, v.CapacityBytes, 0)
		eventually(t, "the disk is as free as it was",
			func() bool { return status(t, p).FreeBytes >= before-mib })
	}
}

// Where sizes are not enforced, a volume can hold more than its size. It is not copied into a
// volume of that size.
func TestVolumeThatHoldsMoreThanItsSizeHasToBeExpandedBeforeItIsCopied(t *testing.T) {
	for _, fstype := range []string{disks.Ext4, disks.XFS} { // btrfs copies nothing for a snapshot
		t.Run(fstype, func(t *testing.T) {
			opts := poolOn(t, fstype).opts
			opts.Path += "-lax"
			opts.IgnoreQuota = true
			p := openPool(t, opts)
			v := create(t, p, "v", 16*mib)
			write(t, filepath.Join(dataPath(p, v.ID), "file"), 32*mib)
			for name, run := range growing(t, p, v) {
				if err := run(); !errors.Is(err, volume.ErrOutOfRange) {
					t.Errorf("%s: %v, want ErrOutOfRange", name, err)
				}
			}
			c := restore(t, p, from(t, "larger", volume.FromVolume(v.ID), 48*mib), only{p})
			wantSameContent(t, filepath.Join(dataPath(p, v.ID), "file"),
				filepath.Join(dataPath(p, c.ID), "file"))
			if _, err := expand(t, p, v.ID, 40*mib, 0); err != nil {
				t.Fatal(err)
			}
			if s := snapshot(t, p, "s", v.ID); s.RestoreBytes != 40*mib || s.HeldBytes < 32*mib ||
				s.HeldBytes > 33*mib {
				t.Errorf("the snapshot is %+v", s)
			}
		})
	}
}

// A snapshot counts the blocks that it holds, not the bytes of its files.
func TestSnapshotOfManySmallFilesHoldsTheirBlocks(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		const files = 1000
		v := create(t, p, "v", 64*mib)
		for i := range files {
			if err := os.WriteFile(
				filepath.Join(dataPath(p, v.ID), strconv.Itoa(i)),
				[]byte("x"),
				0o600,
			); err != nil {
				t.Fatal(err)
			}
		}
		s := snapshot(t, p, "s", v.ID)
		least := int64(files * 4096)
		if p.cloner.ChargesWriter() {
			least = files * 100 // btrfs keeps such small files in its metadata
		}
		if s.HeldBytes < least || s.HeldBytes > least+files*1000 {
			t.Errorf("the snapshot holds %d bytes, want %d and what directories take", s.HeldBytes, least)
		}
		if s.RestoreBytes != v.CapacityBytes {
			t.Errorf("it is restored to %d bytes, want the size of its volume, %d", s.RestoreBytes,
				v.CapacityBytes)
		}
		if got := status(t, p).SnapshotBytes; got != s.HeldBytes {
			t.Errorf("the pool has %d bytes of snapshots, want %d", got, s.HeldBytes)
		}
		wantLedger(t, p, v.CapacityBytes+s.HeldBytes, 0)
	})
}

// A volume may be expanded and filled while it is cloned. The clone must not begin with more data
// than its size.
func TestCloneOfWhatIsExpandedMeanwhileIsNotBeyondItsSize(t *testing.T) {
	for _, c := range []struct {
		name        string
		more, limit int64
		wantErr     error
	}{
		{name: "a little more", more: 2 * mib},
		{name: "a little more than the limit", more: 2 * mib, limit: 65 * mib, wantErr: volume.ErrOutOfRange},
		{name: "much more", more: 20 * mib, wantErr: volume.ErrOutOfRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, v, g := slowPool(t)
			file := filepath.Join(dataPath(p, v.ID), "file")
			if err := os.Truncate(file, 200*mib); err != nil {
				t.Fatal(err)
			}
			req := from(t, "clone", volume.FromVolume(v.ID), v.CapacityBytes)
			req.Size.Limit = c.limit
			if _, err := p.CreateFrom(short(t, g), req, only{p}); !errors.Is(err, volume.ErrBusy) {
				t.Fatal(err)
			}
			if _, err := expand(t, p, v.ID, v.CapacityBytes+c.more, 0); err != nil {
				t.Fatal(err)
			}
			fillHole(t, file, 4*mib, v.CapacityBytes+c.more)
			close(g.opened)
			// A new call for less than the source's present size would be refused. This call joins the copy.
			clone, err := p.CreateFrom(t.Context(), req, only{p})
			if !errors.Is(err, c.wantErr) {
				t.Fatalf("%v, want %v", err, c.wantErr)
			}
			waitPurged(t, p)
			if err != nil {
				wantLedger(t, p, v.CapacityBytes+c.more, 0)
				return
			}
			if clone.CapacityBytes < v.CapacityBytes+c.more ||
				clone.CapacityBytes > v.CapacityBytes+c.more+mib {
				t.Errorf("the clone has %d bytes, want %d and a little more", clone.CapacityBytes,
					v.CapacityBytes+c.more)
			}
			wantLedger(t, p, v.CapacityBytes+c.more+clone.CapacityBytes, 0)
			wantSameContent(t, file, filepath.Join(dataPath(p, clone.ID), "file"))
		})
	}
}

func fillHole(t *testing.T, path string, from, to int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(strings.Repeat("content ", int(to-from)/8)), from); err != nil {
		t.Fatal(err)
	}
}
