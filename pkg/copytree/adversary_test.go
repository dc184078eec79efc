package copytree

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// raceEnv names the environment variable with the duration of the race on each filesystem.
// hack/fuzz sets it.
const raceEnv = "COPYTREE_RACE"

// raceTime is the duration on each filesystem: raceEnv, or 20 s for all filesystems together,
// or a moment with -short.
func raceTime(t *testing.T) time.Duration {
	t.Helper()
	if s := os.Getenv(raceEnv); s != "" {
		d, err := time.ParseDuration(s)
		must(t, err)
		return d
	}
	if testing.Short() {
		return time.Second
	}
	return 20 * time.Second / time.Duration(len(disks.Types()))
}

// secret is the content of files of the host.
const secret = "THE HOST'S SECRET"

const (
	arenaDirs  = 12
	arenaFiles = 6
)

// arena is a tree that attackers change while it is copied, and the files of the host beside it.
type arena struct {
	fixture

	host string
}

// newArena makes directories and files. Each has a twin of another type: a link to one of the
// host's files, a FIFO, a device.
func newArena(t *testing.T, w fixture) arena {
	t.Helper()
	a := arena{fixture: w, host: filepath.Join(filepath.Dir(w.src), "host")}
	must(t, os.Mkdir(a.host, 0o755))
	twins := []func(name, target string) error{
		func(name, target string) error { return os.Symlink(target, name) },
		func(name, _ string) error { return unix.Mkfifo(name, 0o666) },
		func(name, _ string) error { return unix.Mknod(name, unix.S_IFCHR|0o666, unopenable) },
		func(name, target string) error {
			return os.Symlink("../../host/"+filepath.Base(target), name)
		},
		func(name, _ string) error { return unix.Mknod(name, unix.S_IFSOCK|0o666, 0) },
		func(name, _ string) error { return os.Mkdir(name, 0o755) },
	}
	for f := range arenaFiles {
		name := filepath.Join(a.host, "f"+strconv.Itoa(f))
		must(t, os.WriteFile(name, []byte(secret), 0o600))
		makeImmutable(t, name)
	}
	makeImmutable(t, a.host)
	for d := range arenaDirs {
		dir := "d" + strconv.Itoa(d)
		must(t, os.Mkdir(a.in(dir), 0o755))
		must(t, os.Symlink([]string{a.host, "../host"}[d%2], a.in("twin-of-"+dir)))
		for f := range arenaFiles {
			name := filepath.Join(dir, "f"+strconv.Itoa(f))
			a.write(name, "the pod's own")
			must(
				t,
				twins[f](
					a.in(filepath.Join(dir, "twin-of-f"+strconv.Itoa(f))),
					filepath.Join(a.host, "f"+strconv.Itoa(f)),
				),
			)
		}
	}
	a.mkdir("mount")
	a.write("mount/own", "the pod's own")
	return a
}

// makeImmutable protects the host's files from the attackers: they run as root in the host's
// namespace, and could change through a link what no pod can.
func makeImmutable(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0x10)) // FS_IMMUTABLE_FL
}

// unopenable is a character device without a driver. To open it fails with ENXIO: if the copy
// opened it, the copy would fail.
const unopenable = 254<<8 | 255

func (a arena) exchange(x, y string) {
	// Another attacker may have moved either of them.
	_ = unix.Renameat2(unix.AT_FDCWD, a.in(x), unix.AT_FDCWD, a.in(y), unix.RENAME_EXCHANGE)
}

func chance(n int) int { return rand.IntN(n) } //nolint:gosec // an attacker needs no secret

// attackers do what a pod can do while its volume is copied.
func (a arena) attackers() []func() {
	dir := func() string { return "d" + strconv.Itoa(chance(arenaDirs)) }
	file := func() string { return "f" + strconv.Itoa(chance(arenaFiles)) }
	return []func(){
		func() { // directories become links to the host's
			d := dir()
			a.exchange(d, "twin-of-"+d)
		},
		func() { // files become links, FIFOs, devices, sockets, directories
			d, f := dir(), file()
			a.exchange(d+"/"+f, d+"/twin-of-"+f)
		},
		func() { // directories move below each other, and come back
			x, y := dir(), dir()
			if os.Rename(a.in(x), a.in(y+"/moved")) == nil {
				_ = os.Rename(a.in(y+"/moved"), a.in(x))
			}
		},
		func() { // files get names and lose them, grow and shrink
			x, y := a.in(dir()+"/"+file()), a.in(dir()+"/link")
			_ = os.Link(x, y)
			if f, err := os.OpenFile(y, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
				_ = f.Truncate(int64(chance(1 << 20)))
				_ = f.Truncate(13)
				f.Close()
			}
			_ = os.Remove(y)
		},
		func() { // a privileged pod mounts
			if unix.Mount(a.host, a.in("mount"), "", unix.MS_BIND, "") == nil {
				_ = unix.Unmount(a.in("mount"), unix.MNT_DETACH)
			}
		},
	}
}

// A pod changes everything while it is copied. No copy has anything of the host, no copy fails, and
// no copy waits for a FIFO.
func TestNothingFromOutsideIsCopiedWhateverAPodDoesMeanwhile(t *testing.T) {
	onEach(t, func(t *testing.T, w fixture) {
		t.Helper()
		a := newArena(t, w)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, attack := range a.attackers() {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						attack()
					}
				}
			})
		}
		copies, files := 0, int64(0)
		for end := time.Now().Add(raceTime(t)); time.Now().Before(end) && !t.Failed(); copies++ {
			files += a.copyOnce(copies)
		}
		close(stop)
		wg.Wait()
		if files == 0 {
			t.Error("not a file was copied: the race tests nothing")
		}
		t.Logf("%d copies, %d files", copies, files)
	})
}

func (a arena) copyOnce(n int) (files int64) {
	a.t.Helper()
	dst := fmt.Sprintf("%s-%d", a.dst, n)
	must(a.t, os.Mkdir(dst, 0o700))
	stats, err := tryPaths(a.t, a.t.Context(), a.src, dst, Options{Workers: 4, Durability: Volatile})
	if err != nil {
		a.t.Errorf("copy %d: %v", n, err)
	}
	must(a.t, filepath.WalkDir(dst, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path) //nolint:gosec // nobody else is in the copy
		if bytes.Contains(content, []byte(secret)) {
			a.t.Errorf("copy %d has the host's secret in %s", n, path)
		}
		return err
	}))
	must(a.t, os.RemoveAll(dst))
	return stats.Files
}

// What is mounted in a volume does not belong to the volume.
func TestMountInTheTreeIsLeftOut(t *testing.T) {
	onEach(t, func(t *testing.T, w fixture) {
		t.Helper()
		w.mkdir("dir/mount")
		w.write("dir/file", "own")
		w.write("dir/mounted file", "own")
		must(t, unix.Mount("tmpfs", w.in("dir/mount"), "tmpfs", 0, ""))
		must(t, unix.Mount(w.in("dir/file"), w.in("dir/mounted file"), "", unix.MS_BIND, ""))
		w.write("dir/mount/file", secret)
		stats := w.copy(Options{})
		must(t, unix.Unmount(w.in("dir/mount"), unix.MNT_DETACH))
		must(t, unix.Unmount(w.in("dir/mounted file"), unix.MNT_DETACH))
		if stats.LeftOut != 2 || stats.Files != 1 {
			t.Errorf("stats are %+v, want 2 left out and 1 file", stats)
		}
		wantSame(t, stateOf(t, w.dst), stateOf(t, w.src), "./dir/mount", "./dir/mounted file")
	})
}
