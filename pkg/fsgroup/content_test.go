package fsgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// onEach runs a test in the root of a volume on each filesystem.
func onEach(t *testing.T, test func(t *testing.T, root string)) {
	t.Helper()
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			root := filepath.Join(disks.New(t, fstype, 0).Dir, "data")
			must(t, os.Mkdir(root, 0o755))
			test(t, root)
		})
	}
}

// request opens a volume's root as a publication does.
func request(t *testing.T, root string, group uint32) Request {
	t.Helper()
	data, err := os.OpenFile(root, unix.O_PATH, 0)
	must(t, err)
	t.Cleanup(func() { data.Close() })
	return Request{Data: data, Group: volume.Group{ID: group, Given: true}, Lock: unlocked}
}

// The modes are those of kubelet's own walk (changeFilePermission of Kubernetes
// pkg/volume/volume_linux.go).
func TestWhatAnotherGroupHasLeftGetsTheGroupWithItsRights(t *testing.T) {
	onEach(t, func(t *testing.T, root string) { //nolint:thelper // it is the test
		in := func(name string) string { return filepath.Join(root, name) }
		outside := filepath.Join(filepath.Dir(root), "outside")
		must(t,
			os.WriteFile(outside, nil, 0o600),
			os.MkdirAll(in("dir/below"), 0o700),
			os.WriteFile(in("dir/below/file"), nil, 0o600),
			os.WriteFile(in("dir/program"), nil, 0o755),
			unix.Chmod(in("dir/program"), 0o6751),
			os.Link(in("dir/program"), in("name")),
			os.Symlink("../outside", in("dir/link")),
			os.Symlink("nowhere", in("dangling")),
			unix.Mkfifo(in("fifo"), 0o600),
			unix.Mknod(in("socket"), unix.S_IFSOCK|0o600, 0),
			unix.Mknod(in("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))), //nolint:gosec // small
		)
		for range 2 { // from root's group, and from another one
			giveTo(t, root, 1000)
		}
		giveTo(t, root, 2000)
		for name, mode := range map[string]uint32{
			"": 0o2775, "dir": 0o2770, "dir/below": 0o2770, "dir/below/file": 0o660, "dir/program": 0o6771,
			"name": 0o6771, "dir/link": 0o777, "dangling": 0o777, "fifo": 0o660, "socket": 0o660, "null": 0o660,
		} {
			wantGroup(t, in(name), 2000, mode)
		}
		wantGroup(t, outside, 0, 0o600)
	})
}

func TestACLsOfTheContentGiveTheGroupItsRights(t *testing.T) {
	onEach(t, func(t *testing.T, root string) { //nolint:thelper // it is the test
		dir, file := filepath.Join(root, "dir"), filepath.Join(root, "dir", "file")
		must(t, os.Mkdir(dir, 0o755), os.WriteFile(file, nil, 0o644))
		disks.SetACL(t, dir)
		disks.SetACL(t, file)
		giveTo(t, root, 2000)
		wantAccess(t, dir, nil)
		wantAccess(t, file, nil)
	})
}

func TestMountAndImmutableFileAreLeftOut(t *testing.T) {
	onEach(t, func(t *testing.T, root string) { //nolint:thelper // it is the test
		in := func(name string) string { return filepath.Join(root, name) }
		host := filepath.Join(filepath.Dir(root), "host")
		must(t,
			os.WriteFile(in("file"), nil, 0o600), os.WriteFile(host, nil, 0o600),
			os.WriteFile(in("fixed"), nil, 0o600), os.WriteFile(in("other"), nil, 0o600),
			os.Mkdir(in("dir"), 0o700),
			unix.Mount(host, in("file"), "", unix.MS_BIND, ""),
			unix.Mount("tmpfs", in("dir"), "tmpfs", 0, "mode=0700"),
		)
		f, err := os.Open(in("fixed"))
		must(t, err, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0x10)) // FS_IMMUTABLE_FL
		defer f.Close()
		giveTo(t, root, 2000)
		must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0))
		wantGroup(t, root, 2000, 0o2775)
		wantGroup(t, in("file"), 0, 0o600)
		wantGroup(t, in("dir"), 0, 0o700)
		wantGroup(t, in("fixed"), 0, 0o600)
		wantGroup(t, in("other"), 2000, 0o660)
		must(t, unix.Unmount(in("file"), 0), unix.Unmount(in("dir"), 0))
		wantGroup(t, in("file"), 0, 0o600)
		wantGroup(t, in("dir"), 0, 0o700)
	})
}

// gate stops a walk after some steps until it is opened.
type gate struct {
	mu     sync.Mutex
	steps  int
	opened chan struct{}
}

func (g *gate) Yield(ctx context.Context) (others bool, err error) {
	g.mu.Lock()
	g.steps--
	wait := g.steps < 0
	g.mu.Unlock()
	if wait {
		select {
		case <-g.opened:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	return false, nil
}

const manyFiles = 500

// full makes a volume with many files, a hundred to a directory.
func full(t *testing.T, root string) {
	t.Helper()
	for i := range manyFiles {
		dir := filepath.Join(root, strconv.Itoa(i/100))
		must(t, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644))
	}
}

// countChanged counts the files that have the group 2000.
func countChanged(t *testing.T, root string) (n int) {
	t.Helper()
	for i := range manyFiles {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(root, strconv.Itoa(i/100), strconv.Itoa(i)), &st))
		if st.Gid == 2000 {
			n++
		}
	}
	return n
}

func TestInterruptedChangeIsSeenAtTheRootAndGoesOn(t *testing.T) {
	root := newRoot(t)
	full(t, root)
	groups := Start(t.Context(), &gate{steps: 4, opened: make(chan struct{})})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := groups.Set(gone, request(t, root, 2000)); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("the call ends with %v, want ErrBusy", err)
	}
	for deadline := time.Now().Add(time.Minute); countChanged(t, root) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing is changed")
		}
	}
	groups.Close() // as the end of the driver
	if n := countChanged(t, root); n == manyFiles {
		t.Fatal("the change was not interrupted: the test shows nothing")
	}
	wantGroup(t, root, 0, 0o755)
	giveTo(t, root, 2000)
	wantGroup(t, root, 2000, 0o2775)
	if n := countChanged(t, root); n != manyFiles {
		t.Errorf("%d of %d files have the group", n, manyFiles)
	}
}

func TestCallsJoinTheChangeThatIsUnderWay(t *testing.T) {
	root := newRoot(t)
	full(t, root)
	g := &gate{opened: make(chan struct{})}
	locked := 0
	groups := Start(t.Context(), g)
	defer groups.Close()
	r := request(t, root, 2000)
	r.Lock = func() (unlock func(), err error) {
		locked++
		return func() {}, nil
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		err := groups.Set(gone, r)
		if !errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), "files and directories") {
			t.Errorf("the call ends with %v, want ErrBusy and how far it is", err)
		}
	}
	if err := groups.Set(t.Context(), request(t, root, 3000)); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("another group: %v, want ErrBusy", err)
	}
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			if err := groups.Set(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	close(g.opened)
	calls.Wait()
	if n := countChanged(t, root); n != manyFiles || locked != 1 {
		t.Errorf("%d of %d files have the group, after %d walks, want one", n, manyFiles, locked)
	}
}

func TestStoppedChangeLetsGoOfTheVolume(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 0)
	full(t, disk.Dir)
	groups := Start(t.Context(), &gate{opened: make(chan struct{})})
	defer groups.Close()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r := request(t, disk.Dir, 2000)
	if err := groups.Set(gone, r); !errors.Is(err, volume.ErrBusy) {
		t.Fatal(err)
	}
	must(t, r.Data.Close(), groups.Stop(t.Context(), r.ID))
	must(t, unix.Unmount(disk.Dir, 0)) // EBUSY while anything is open
}

func TestVolumeThatIsCopiedIsLeftAlone(t *testing.T) {
	root := newRoot(t)
	full(t, root)
	groups := Start(t.Context(), nil)
	defer groups.Close()
	r := request(t, root, 2000)
	r.Lock = func() (unlock func(), err error) { return nil, volume.ErrBusy }
	if err := groups.Set(t.Context(), r); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	if n := countChanged(t, root); n != 0 {
		t.Errorf("%d files were changed", n)
	}
}

func TestDeepTreeIsWalkedWithFewOpenDirectories(t *testing.T) {
	onEach(t, func(t *testing.T, root string) { //nolint:thelper // it is the test
		const depth = 500
		at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		for range depth { // each with a file after the directory and one before it
			for _, name := range []string{"a", "b", "c"} {
				must(t, unix.Mknodat(at, name, unix.S_IFREG|0o600, 0))
			}
			must(t, unix.Mkdirat(at, "d", 0o700))
			next, err := unix.Openat(at, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			must(t, err, unix.Close(at))
			at = next
		}
		defer unix.Close(at)
		giveTo(t, root, 2000)
		for level := range depth {
			var st unix.Stat_t
			path := root + strings.Repeat("/d", level)
			for name, mode := range map[string]uint32{"/a": 0o660, "/b": 0o660, "/c": 0o660, "/d": 0o2770} {
				must(t, unix.Lstat(path+name, &st))
				if st.Gid != 2000 || st.Mode&^unix.S_IFMT != mode {
					t.Fatalf("level %d: %s has group %d and mode %o", level, name, st.Gid, st.Mode)
				}
			}
		}
	})
}

// raceTime is how long the race takes on each filesystem.
const raceTime = time.Second

// A pod of the old group may run while the volume is given to the new one.
func TestNothingOutsideIsChangedWhateverAPodDoesMeanwhile(t *testing.T) {
	onEach(t, func(t *testing.T, root string) { //nolint:thelper // it is the test
		host := filepath.Join(filepath.Dir(root), "host")
		must(t, os.Mkdir(host, 0o700))
		for i := range 10 {
			must(t, os.WriteFile(filepath.Join(host, strconv.Itoa(i)), nil, 0o600))
			dir := filepath.Join(root, fmt.Sprintf("d%d", i))
			must(t, os.Mkdir(dir, 0o755), os.Symlink(host, dir+"-link"))
			for j := range 10 {
				file := filepath.Join(dir, strconv.Itoa(j))
				target := filepath.Join(host, strconv.Itoa(j))
				must(t, os.WriteFile(file, nil, 0o644), os.Symlink(target, file+"-link"))
			}
		}
		// The attackers work on descriptors: as root of the node, through a link they could change what
		// no pod can.
		open := func(path string) int {
			fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			must(t, err)
			t.Cleanup(func() { unix.Close(fd) })
			return fd
		}
		top, dirs := open(root), make([]int, 10)
		for i := range dirs {
			dirs[i] = open(filepath.Join(root, fmt.Sprintf("d%d", i)))
		}
		done := make(chan struct{})
		var attackers sync.WaitGroup
		attack := func(exchange func(step int) error) {
			attackers.Go(func() {
				for step := 0; ; step++ {
					select {
					case <-done:
						return
					default: // another attacker may have moved either of them
						_ = exchange(step)
					}
				}
			})
		}
		attack(func(step int) error { // directories become links
			name := fmt.Sprintf("d%d", step%10)
			return unix.Renameat2(top, name, top, name+"-link", unix.RENAME_EXCHANGE)
		})
		attack(func(step int) error { // files become links
			dir, name := dirs[step%10], strconv.Itoa(step/10%10)
			return unix.Renameat2(dir, name, dir, name+"-link", unix.RENAME_EXCHANGE)
		})
		attack(func(step int) error { // files become directories
			file, dir := strconv.Itoa(step/10%10), fmt.Sprintf("d%d", (step+1)%10)
			return unix.Renameat2(dirs[step%10], file, top, dir, unix.RENAME_EXCHANGE)
		})
		deadline := time.Now().Add(raceTime)
		for group := uint32(2000); time.Now().Before(deadline); group++ {
			if err := set(t, root, group); err != nil {
				t.Error(err)
				break
			}
		}
		close(done)
		attackers.Wait()
		wantGroup(t, host, 0, 0o700)
		for i := range 10 {
			wantGroup(t, filepath.Join(host, strconv.Itoa(i)), 0, 0o600)
		}
	})
}
