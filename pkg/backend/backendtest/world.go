package backendtest

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// patience bounds how long the filesystem may take for what it does in the background.
const patience = 60 * time.Second

// world is a subject with its backend open.
type world struct {
	t       testing.TB
	subject Subject
	root    *os.File
	backend backend.Backend
	dirs    int
}

func newWorld(t testing.TB, subject Subject) *world {
	t.Helper()
	root, err := os.Open(subject.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &world{t: t, subject: subject, root: root, backend: subject.Open(t, root)}
}

// made is a volume that a backend has made.
type made struct {
	dir     *os.File
	data    *os.File
	spec    volume.Spec
	quotaID volume.QuotaID
	path    string // of the data
}

func spec(t volume.Type) volume.Spec { return volume.Spec{Type: t, Mode: 0o755} }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// reopen is a start of the driver, which knows nothing of the volumes yet.
func (w *world) reopen() backend.Backend {
	w.t.Helper()
	w.backend = w.subject.Open(w.t, w.root)
	return w.backend
}

// mkdir makes the directory of a volume.
func (w *world) mkdir() *os.File {
	w.t.Helper()
	w.dirs++
	path := filepath.Join(w.subject.Dir, strconv.Itoa(w.dirs))
	w.must(os.Mkdir(path, 0o700))
	dir, err := os.Open(path)
	w.must(err)
	w.t.Cleanup(func() { dir.Close() })
	return dir
}

// make makes a volume of size bytes.
func (w *world) make(volumeType volume.Type) made {
	w.t.Helper()
	return w.makeBy(w.backend, volumeType)
}

func (w *world) makeBy(b backend.Backend, volumeType volume.Type) made {
	w.t.Helper()
	return w.makeOf(b, spec(volumeType))
}

func (w *world) makeOf(b backend.Backend, s volume.Spec) made {
	w.t.Helper()
	dir := w.mkdir()
	f, quotaID, err := b.Make(dir, s, size)
	w.must(err)
	w.must(f.Sync())
	w.must(f.Close())
	data, err := backend.OpenData(dir, unix.O_PATH)
	w.must(err)
	w.t.Cleanup(func() { data.Close() })
	path, err := os.Readlink(openat.Path(data))
	w.must(err)
	return made{dir: dir, data: data, spec: s, quotaID: quotaID, path: path}
}

// file is one that can grow: the volume itself, or a file in it.
func (m made) file(name string) string {
	if info, err := m.data.Stat(); err == nil && !info.IsDir() {
		return m.path
	}
	return filepath.Join(m.path, name)
}

// makeFiles makes so many empty files with names that are free.
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
func (w *world) remove(v made) {
	w.t.Helper()
	w.must(v.data.Close()) // what is open counts
	w.must(w.backend.Discard(v.dir))
	rest, err := os.OpenRoot(v.dir.Name())
	w.must(err)
	defer rest.Close()
	for _, name := range []string{backend.Data, backend.Holder} {
		w.must(rest.RemoveAll(name))
	}
	w.release(v.quotaID)
}

func (w *world) release(quotaID volume.QuotaID) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := w.backend.Release(quotaID)
		if err == nil {
			return
		}
		if !errors.Is(err, backend.ErrPending) || time.Now().After(deadline) {
			w.t.Fatalf("release: %v", err)
		}
	}
}

// usage is up to date.
func (w *world) usage(v made) volume.Usage {
	w.t.Helper()
	w.must(unix.Syncfs(int(w.root.Fd())))
	u, err := w.backend.Usage(v.data, v.quotaID)
	w.must(err)
	return u
}

// asPod runs f without the capability that takes a process out of ext4's quotas (CAP_SYS_RESOURCE,
// fs/quota/dquot.c, ignore_hardlimit); no container has it unless it is privileged.
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

// grow writes to the end of a file, a block at a time, until that fails or the file has so many
// bytes.
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

// isFull says whether a writer was told that there is no room.
func isFull(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }

// fill writes to a volume that has had so many bytes written to it, until it is full; and it has to
// be full just there.
func (w *world) fill(path string, before int64) {
	w.t.Helper()
	written, err := grow(path, 2*size)
	if !isFull(err) {
		w.t.Fatalf("after %d bytes in a volume of %d: %v, want EDQUOT or ENOSPC", before+written,
			int64(size), err)
	}
	if total := before + written; total > size || total < size-w.subject.Slack-block {
		w.t.Errorf("full after %d bytes, want %d, or up to %d less", total, int64(size),
			w.subject.Slack+block)
	}
}

// wantFull checks that nothing of any size can be written.
func (w *world) wantFull(path string) {
	w.t.Helper()
	if n, err := grow(path, w.subject.Slack+2*block); !isFull(err) {
		w.t.Errorf("%d bytes were written to a full volume: %v", n, err)
	}
}

// wantRoom checks that so much can be written.
func (w *world) wantRoom(path string, bytes int64) {
	w.t.Helper()
	if n, err := grow(path, bytes); err != nil {
		w.t.Errorf("%d of %d bytes were written: %v", n, bytes, err)
	}
}
