//go:build vm

package guest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const mib = 1 << 20

// TestCopiesAreUnderQuotasOfTheirOwn: what is copied, or shares the blocks of its source, counts
// for itself and for nobody else.
func TestCopiesAreUnderQuotasOfTheirOwn(t *testing.T) {
	for _, fstype := range []string{"xfs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			p, err := pool.Open(t.Context(),
				pool.Options{Name: fstype, Path: filepath.Join(Disk(t, fstype), "copies"), RequireQuota: true})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			source := newVolume(t, p, "source", 32*mib)
			fillVolume(t, p, source, 16*mib)
			s := takeSnapshot(t, p, "snapshot", source)
			wantUse(t, p, source, 32*mib, 16*mib)
			restored := copyOf(t, p, "restored", volume.FromSnapshot(s.ID), 48*mib)
			cloned := copyOf(t, p, "cloned", volume.FromVolume(source), 40*mib)
			wantUse(t, p, restored, 48*mib, 16*mib)
			wantUse(t, p, cloned, 40*mib, 16*mib)
			fillVolume(t, p, restored, 100*mib)
			fillVolume(t, p, cloned, 100*mib)
			wantUse(t, p, restored, 48*mib, 48*mib)
			wantUse(t, p, cloned, 40*mib, 40*mib)
			wantUse(t, p, source, 32*mib, 16*mib)
			// A full volume's copy is not refused for a block more than its source has, and does
			// not begin beyond its size either.
			full := copyOf(t, p, "full", volume.FromVolume(cloned), 40*mib)
			wantFull(t, p, full, 40*mib)
		})
	}
}

func newVolume(t *testing.T, p *pool.Pool, name string, size int64) volume.ID {
	t.Helper()
	v, err := p.Create(t.Context(), volume.CreateRequest{
		Name: parseName(t, name),
		Size: volume.SizeRange{Required: size},
		Spec: volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o777},
	})
	if err != nil {
		t.Fatal(err)
	}
	return v.ID
}

func takeSnapshot(t *testing.T, p *pool.Pool, name string, source volume.ID) volume.Snapshot {
	t.Helper()
	s, err := p.CreateSnapshot(t.Context(),
		volume.SnapshotRequest{Name: parseName(t, name), Source: source})
	if err != nil {
		t.Fatal(err)
	}
	if s.HeldBytes < 16*mib || s.HeldBytes > 17*mib {
		t.Errorf("the snapshot holds %d bytes, want 16 MiB", s.HeldBytes)
	}
	return s
}

// here is a node with one pool.
type here struct{ *pool.Pool }

func (h here) ByID(volume.PoolID) (*pool.Pool, error) { return h.Pool, nil }

func copyOf(t *testing.T, p *pool.Pool, name string, source volume.Source, size int64) volume.ID {
	t.Helper()
	v, err := p.CreateFrom(t.Context(), volume.CreateRequest{
		Name: parseName(t, name), Size: volume.SizeRange{Required: size}, Source: source,
		Spec: volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
	}, here{p})
	if err != nil {
		t.Fatal(err)
	}
	return v.ID
}

func parseName(t *testing.T, s string) volume.Name {
	t.Helper()
	n, err := volume.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fillVolume writes a file, as a pod does, until it has that many bytes or the volume is full.
func fillVolume(t *testing.T, p *pool.Pool, id volume.ID, size int) {
	t.Helper()
	v, err := p.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := v.Data()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	err = AsPod(func() error {
		fd, err := unix.Openat(int(dir.Fd()), "file-"+id.Dir(), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC,
			0o666)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "file")
		defer f.Close()
		chunk := bytes.Repeat([]byte("content "), mib/8/8)
		for written := 0; written < size && err == nil; written += len(chunk) {
			_, err = f.Write(chunk)
		}
		return errors.Join(err, f.Sync())
	})
	if err != nil && !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// wantFull: a volume has the size that was asked for, or some blocks more, and holds no more than
// that.
func wantFull(t *testing.T, p *pool.Pool, id volume.ID, size int64) {
	t.Helper()
	v, err := p.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	if v.CapacityBytes < size || v.CapacityBytes > size+64<<10 {
		t.Errorf("the copy of a volume of %d bytes has %d", size, v.CapacityBytes)
	}
	if u := wantUse(t, p, id, v.CapacityBytes, size); u.UsedBytes > u.TotalBytes {
		t.Errorf("the copy begins with %+v: beyond its size", u)
	}
}

// wantUse compares what the quota says, which it returns, with what it is to be, within what
// directories and maps of files take.
func wantUse(t *testing.T, p *pool.Pool, id volume.ID, total, used int64) volume.Usage {
	t.Helper()
	const slack = 256 << 10
	v, err := p.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	data, err := v.Data()
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	u, err := v.Usage(data)
	if err != nil {
		t.Fatal(err)
	}
	if u.TotalBytes != total || u.UsedBytes < used-slack || u.UsedBytes > used+slack {
		t.Errorf("volume %s has %d of %d bytes, want %d of %d", id.Dir(), u.UsedBytes, u.TotalBytes, used,
			total)
	}
	return u
}
