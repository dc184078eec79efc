package pod

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The IDs that kubelet gives to a pod with hostUsers: false: 65,536 of the node's that nobody else
// has (Kubernetes, "User Namespaces").
const (
	firstID = 20 << 16
	idCount = 1 << 16
)

// UserNamespace is that of a pod with hostUsers: false.
type UserNamespace struct{ file *os.File }

func attributes() *syscall.SysProcAttr {
	mappings := []syscall.SysProcIDMap{{ContainerID: 0, HostID: firstID, Size: idCount}}
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: mappings, GidMappings: mappings, GidMappingsEnableSetgroups: true,
	}
}

// NewUserNamespace makes one that ends with the test.
func NewUserNamespace(t testing.TB) UserNamespace {
	t.Helper()
	keeper := exec.CommandContext(t.Context(), "sleep", "infinity")
	keeper.SysProcAttr = attributes()
	if err := keeper.Start(); err != nil {
		t.Fatalf("a user namespace: %v", err)
	}
	defer func() { _, _ = keeper.Process.Kill(), keeper.Wait() }()
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", keeper.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return UserNamespace{file}
}

// Mount shows a volume's target at another path as the container runtime shows it to the pod: by a
// mount that maps the IDs (mount_setattr(2), MOUNT_ATTR_IDMAP). The caller unmounts it.
func (u UserNamespace) Mount(target, at string) (err error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, target,
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(tree)) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(u.file.Fd())}
	flags := uint(unix.AT_EMPTY_PATH | unix.AT_RECURSIVE)
	if err := unix.MountSetattr(tree, "", flags, &attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// Shell runs a command as a user of such a pod, with its group and one more, which its fsGroup is.
// In the command, $v is the volume: by its descriptor, because the pod may not search the
// directories above. It returns what the command says.
func (UserNamespace) Shell(
	t testing.TB, mounted *os.File, id, fsGroup uint32, command string,
) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "v=/proc/self/fd/3; "+command)
	cmd.ExtraFiles = []*os.File{mounted}
	cmd.SysProcAttr = attributes()
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: id, Gid: id, Groups: []uint32{fsGroup}}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return text, err
}
