package fuse

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFilesystemAnswersHangsAndDies(t *testing.T) {
	dir := t.TempDir()
	s := Mount(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Fatalf("it has %v, %v", names, err)
	}
	content, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil || len(content) != FileBytes {
		t.Fatalf("the file has %d bytes, %v", len(content), err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Blocks != 1000 || fs.Bavail != 500 {
		t.Fatalf("statfs: %+v, %v", fs, err)
	}
	s.Hang()
	asked := make(chan error, 1)
	go func() { asked <- unix.Statfs(dir, &fs) }()
	for s.Asked() == 0 {
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-asked:
		t.Fatalf("a filesystem that hangs has answered: %v", err)
	default:
	}
	s.Die()
	if err := <-asked; !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("who waited got %v", err)
	}
	if err := unix.Statfs(dir, &fs); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("statfs of a dead filesystem: %v", err)
	}
}
