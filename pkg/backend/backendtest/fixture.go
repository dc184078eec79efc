package backendtest

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// backendFixture is a subject with its backend open.
type backendFixture struct {
	t       testing.TB
	subject Subject
	root    *os.File
	backend backend.Backend
	dirs    int
}

func newBackendFixture(t testing.TB, subject Subject) *backendFixture {
	t.Helper()
	root, err := os.Open(subject.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &backendFixture{t: t, subject: subject, root: root, backend: subject.Open(t, root)}
}

// made is a volume that a backend has made.
type made struct {
	dir     openat.Dir
	data    *os.File
	spec    volume.Spec
	quotaID volume.QuotaID
	path    string // of the data
}

func spec(t volume.Type) volume.Spec { return volume.Spec{Type: t, Mode: 0o755} }

// reopen opens the backend as a start of the driver does: it knows no volume yet.
func (fix *backendFixture) reopen() backend.Backend {
	fix.t.Helper()
	fix.backend = fix.subject.Open(fix.t, fix.root)
	return fix.backend
}

// mkdir makes the directory of a volume.
func (fix *backendFixture) mkdir() openat.Dir {
	fix.t.Helper()
	fix.dirs++
	path := filepath.Join(fix.subject.Dir, strconv.Itoa(fix.dirs))
	fixture.Must(fix.t, os.Mkdir(path, 0o700))
	dir, err := openat.OpenDir(path)
	fixture.Must(fix.t, err)
	fix.t.Cleanup(func() { dir.Close() })
	return dir
}

// make makes a volume of size bytes.
func (fix *backendFixture) make(volumeType volume.Type) made {
	fix.t.Helper()
	return fix.makeBy(fix.backend, volumeType)
}

func (fix *backendFixture) makeBy(b backend.Backend, volumeType volume.Type) made {
	fix.t.Helper()
	return fix.makeOf(b, spec(volumeType))
}

func (fix *backendFixture) makeOf(b backend.Backend, s volume.Spec) made {
	fix.t.Helper()
	dir := fix.mkdir()
	f, quotaID, err := b.Make(dir, s, size)
	fixture.Must(fix.t, err)
	fixture.Must(fix.t, f.Sync())
	fixture.Must(fix.t, f.Close())
	data, err := backend.OpenData(dir, unix.O_PATH)
	fixture.Must(fix.t, err)
	fix.t.Cleanup(func() { data.Close() })
	path, err := os.Readlink(openat.Path(data))
	fixture.Must(fix.t, err)
	return made{dir: dir, data: data, spec: s, quotaID: quotaID, path: path}
}

// file returns the path of a file that can grow: the volume itself, or a file in it.
func (m made) file(name string) string {
	if info, err := m.data.Stat(); err == nil && !info.IsDir() {
		return m.path
	}
	return filepath.Join(m.path, name)
}

// makeFiles makes n empty files with new names.
func (m made) makeFiles(n int) (files int, err error) {
	err = asPod(func() error {
		for name := 0; files < n; name++ {
			f, err := os.OpenFile(m.file(strconv.Itoa(name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if errors.Is(err, os.ErrExist) {
				continue
			}
			if err != nil {
				return err
			}
			f.Close()
			files++
		}
		return nil
	})
	return files, err
}

// remove does what a purge does.
func (fix *backendFixture) remove(v made) {
	fix.t.Helper()
	fixture.Must(fix.t, v.data.Close()) // what is open counts
	fixture.Must(fix.t, fix.backend.Discard(v.dir))
	rest, err := os.OpenRoot(v.dir.Name())
	fixture.Must(fix.t, err)
	defer rest.Close()
	for _, name := range []string{backend.Data, backend.Holder} {
		fixture.Must(fix.t, rest.RemoveAll(name))
	}
	fix.release(v.quotaID)
}

func (fix *backendFixture) release(quotaID volume.QuotaID) {
	fix.t.Helper()
	fixture.Eventually(fix.t, "the quota is released", func() bool {
		err := fix.backend.Release(quotaID)
		if !errors.Is(err, backend.ErrPending) {
			fixture.Must(fix.t, err)
		}
		return err == nil
	})
}

// usage returns the usage after a sync.
func (fix *backendFixture) usage(v made) volume.Usage {
	fix.t.Helper()
	fixture.Must(fix.t, unix.Syncfs(int(fix.root.Fd())))
	u, err := fix.backend.Usage(v.data, v.quotaID)
	fixture.Must(fix.t, err)
	return u
}

// asPod runs f without CAP_SYS_RESOURCE, which only privileged containers have: ext4 ignores limits
// of a process with it (fs/quota/dquot.c, ignore_hardlimit).
func asPod(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		if err == nil {
			data[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
			err = unix.Capset(&header, &data[0])
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// grow appends bytes to a file, a block at a time, and returns how many it could write.
func grow(path string, bytes int64) (written int64, err error) {
	err = asPod(func() error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		for content := make([]byte, block); written < bytes; {
			n, err := f.Write(content)
			written += int64(n)
			if err != nil {
				return err
			}
		}
		return f.Sync()
	})
	return written, err
}

// isFull reports whether an error of a writer means that there is no space.
func isFull(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }

// fill writes to a volume until it is full. With the bytes that were written before, it must be
// full at its size.
func (fix *backendFixture) fill(path string, before int64) {
	fix.t.Helper()
	written, err := grow(path, 2*size)
	if !isFull(err) {
		fix.t.Fatalf("after %d bytes in a volume of %d: %v, want EDQUOT or ENOSPC", before+written,
			int64(size), err)
	}
	if total := before + written; total > size || total < size-fix.subject.Slack-block {
		fix.t.Errorf("full after %d bytes, want %d, or up to %d less", total, int64(size),
			fix.subject.Slack+block)
	}
}

// wantFull checks that a volume is full.
func (fix *backendFixture) wantFull(path string) {
	fix.t.Helper()
	if n, err := grow(path, fix.subject.Slack+2*block); !isFull(err) {
		fix.t.Errorf("%d bytes were written to a full volume: %v", n, err)
	}
}

// wantRoom checks that a number of bytes can be written.
func (fix *backendFixture) wantRoom(path string, bytes int64) {
	fix.t.Helper()
	if n, err := grow(path, bytes); err != nil {
		fix.t.Errorf("%d of %d bytes were written: %v", n, bytes, err)
	}
}
