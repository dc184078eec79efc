package serving

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const sidecarGroup = 65532

// connectAs connects as another user and group. It changes them for its thread only, which ends
// with the goroutine.
func connectAs(path string, uid, gid int) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(fd)
		// The group before the user: after the change of the user the thread may not change its group.
		address := &unix.SockaddrUnix{Name: path}
		done <- errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid), unix.Connect(fd, address))
	}()
	return <-done
}

func TestSidecarSocketIsForItsGroupAlone(t *testing.T) {
	disks.RequireRoot(t)
	for _, umask := range []int{0, 0o022, 0o077} {
		func() {
			defer unix.Umask(unix.Umask(umask))
			path := fixture.Socket(t)
			// others may enter the directory, and must be refused at the socket
			if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			l, err := ListenForGroup("unix://"+path, sidecarGroup)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			owner, _ := info.Sys().(*syscall.Stat_t)
			if info.Mode() != fs.ModeSocket|0o660 || owner.Uid != 0 || owner.Gid != sidecarGroup {
				t.Errorf("umask %#o: mode %v, owner %d:%d", umask, info.Mode(), owner.Uid, owner.Gid)
			}
			if err := connectAs(path, sidecarGroup, sidecarGroup); err != nil {
				t.Errorf("umask %#o: the group cannot connect: %v", umask, err)
			}
			if err := connectAs(path, sidecarGroup, sidecarGroup+1); !errors.Is(err, unix.EACCES) {
				t.Errorf("umask %#o: another group: %v", umask, err)
			}
		}()
	}
}

// A default ACL of kubelet's directory would let its users connect, and take the write permission
// from the group.
func TestSocketOfAGroupInheritsNoACL(t *testing.T) {
	dir := disks.New(t, disks.Ext4, 0).Dir
	disks.SetDefaultACL(t, dir)
	path := filepath.Join(dir, "csi.sock")
	l, err := ListenForGroup("unix://"+path, sidecarGroup)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if have := disks.ACLsOf(t, path); len(have) > 0 {
		t.Errorf("the socket has the ACLs %v", have)
	}
	if err := connectAs(path, sidecarGroup, sidecarGroup); err != nil {
		t.Errorf("the group cannot connect: %v", err)
	}
	if err := connectAs(path, disks.ACLUser, sidecarGroup+1); !errors.Is(err, unix.EACCES) {
		t.Errorf("a user of the ACL: %v", err)
	}
}

func TestGroupIsGivenNothingButTheSocket(t *testing.T) {
	disks.RequireRoot(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "csi.sock")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{victim, link} {
		if err := admitGroup(path, sidecarGroup); err == nil ||
			!strings.Contains(err.Error(), "exchanged") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if info, err := os.Stat(victim); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file at the socket's path: %v, %v", info.Mode(), err)
	}
}
