package disks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Fill leaves no room on the disk for a block, an inode or a name, until Unfill.
func (d Disk) Fill(t testing.TB) {
	t.Helper()
	must(t, os.Mkdir(d.fillers(), 0o700))
	large, err := os.Create(filepath.Join(d.fillers(), "large"))
	must(t, err)
	defer large.Close()
	must(t, takeBlocks(large))
	for round := 0; ; round++ {
		made := 0
		for _, kind := range []filler{{attribute: 15 << 10}, {content: 4 << 10}, {content: 1}, {}} {
			made += kind.makeAll(t, filepath.Join(d.fillers(), fmt.Sprintf("%d-%+v", round, kind)))
		}
		must(t, unix.Syncfs(int(large.Fd()))) // btrfs gives back what it had reserved too much
		if made == 0 {
			break
		}
	}
	if err := os.Mkdir(filepath.Join(d.fillers(), "one-more"), 0o700); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("one more directory: %v, want ENOSPC", err)
	}
}

// Unfill gives back what Fill took.
func (d Disk) Unfill(t testing.TB) {
	t.Helper()
	must(t, os.RemoveAll(d.fillers()))
	root, err := os.Open(d.Dir)
	must(t, err)
	defer root.Close()
	must(t, unix.Syncfs(int(root.Fd())))
}

func (d Disk) fillers() string { return filepath.Join(d.Dir, "fillers") }

// takeBlocks gives a file what is free, but for some crumbs.
func takeBlocks(f *os.File) error {
	size := int64(0)
	for chunk := int64(64 << 20); chunk >= 4<<10; {
		err := unix.Fallocate(int(f.Fd()), 0, size, chunk)
		switch {
		case err == nil:
			size += chunk
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		default:
			return err
		}
	}
	return nil
}

// filler is a file of so many bytes, with an extended attribute of so many: that is the quickest
// way to fill the metadata of btrfs, which are apart from the data.
type filler struct{ content, attribute int }

// makeAll makes files until that fails, and says how many.
func (f filler) makeAll(t testing.TB, prefix string) (made int) {
	t.Helper()
	for ; ; made++ {
		err := f.make(fmt.Sprintf("%s-%d", prefix, made))
		if errors.Is(err, unix.ENOSPC) {
			return made
		}
		must(t, err)
	}
}

func (f filler) make(path string) error {
	if err := os.WriteFile(path, make([]byte, f.content), 0o600); err != nil || f.attribute == 0 {
		return err
	}
	return unix.Setxattr(path, "trusted.filler", make([]byte, f.attribute), 0)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
