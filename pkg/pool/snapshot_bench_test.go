package pool

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// shape describes the content of a benchmark's volume.
type shape struct {
	name         string
	files, bytes int
}

func shapes() []shape {
	return []shape{{"512 MiB in 4 files", 4, 128 * mib}, {"10000 x 4 KiB", 10000, 4 << 10}}
}

// BenchmarkSnapshot takes a snapshot of a volume whose content is on the disk. The deletion of the
// snapshot is not timed.
func BenchmarkSnapshot(b *testing.B) {
	benchmarkCopies(
		b,
		//nolint:thelper // it is one
		func(b *testing.B, p *Pool, v volume.Volume, name string) func() error {
			s, err := p.CreateSnapshot(b.Context(),
				volume.SnapshotRequest{Name: parse(b, name), Source: v.ID})
			if err != nil {
				b.Fatal(err)
			}
			return func() error { return p.DeleteSnapshot(b.Context(), s.ID) }
		},
	)
}

// BenchmarkRestore creates a volume from a snapshot.
func BenchmarkRestore(b *testing.B) {
	var taken volume.Snapshot
	benchmarkCopies(
		b,
		//nolint:thelper // it is one
		func(b *testing.B, p *Pool, v volume.Volume, name string) func() error {
			if taken.Source != v.ID {
				b.StopTimer()
				var err error
				if taken, err = p.CreateSnapshot(
					b.Context(),
					volume.SnapshotRequest{Name: parse(b, "source"), Source: v.ID},
				); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			restored, err := p.CreateFrom(b.Context(), volume.CreateRequest{
				Name:   parse(b, name),
				Spec:   directory,
				Size:   volume.SizeRange{Required: v.CapacityBytes},
				Source: volume.FromSnapshot(taken.ID),
			}, only{p})
			if err != nil {
				b.Fatal(err)
			}
			return func() error { return p.Delete(b.Context(), restored.ID) }
		},
	)
}

func parse(b *testing.B, name string) volume.Name {
	b.Helper()
	n, err := volume.ParseName(name)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// benchmarkCopies times a function that makes a copy of a volume, on each filesystem. The function
// returns another one that removes the copy.
func benchmarkCopies(
	b *testing.B, run func(b *testing.B, p *Pool, v volume.Volume, name string) func() error,
) {
	b.Helper()
	for _, fstype := range disks.Types() {
		for _, s := range shapes() {
			b.Run(fstype+"/"+s.name, func(b *testing.B) {
				p, v := benchmarkVolume(b, fstype, s)
				for i := 0; b.Loop(); i++ {
					remove := run(b, p, v, fmt.Sprintf("n-%d", i))
					b.StopTimer()
					if err := remove(); err != nil {
						b.Fatal(err)
					}
					for status, _ := p.Status(); status.TrashBytes > 0; status, _ = p.Status() {
						_ = unix.Syncfs(p.layout.Root.FD())
					}
					b.StartTimer()
				}
			})
		}
	}
}

func benchmarkVolume(b *testing.B, fstype string, s shape) (*Pool, volume.Volume) {
	b.Helper()
	disk := disks.New(b, fstype, 4<<30)
	p, err := Open(b.Context(), Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := p.Close(); err != nil {
			b.Error(err)
		}
	})
	v, err := p.Create(b.Context(), volume.CreateRequest{
		Name: parse(b, "v"), Spec: directory, Size: volume.SizeRange{Required: 1 << 30},
	})
	if err != nil {
		b.Fatal(err)
	}
	content := make([]byte, s.bytes)
	rand.Read(content) // never fails: see crypto/rand
	for i := range s.files {
		dir := filepath.Join(dataPath(p, v.ID), strconv.Itoa(i/1000))
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), content, 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := unix.Syncfs(p.layout.Root.FD()); err != nil {
		b.Fatal(err)
	}
	return p, v
}
