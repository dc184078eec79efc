package detect_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/detect"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func detectOn(t *testing.T, dir string, opts detect.Options) (backend.Backend, error) {
	t.Helper()
	root, err := openat.OpenDir(dir)
	fixture.Must(t, err)
	t.Cleanup(func() { root.Close() })
	return detect.Backend(t.Context(), root, opts)
}

// mountMemory mounts a filesystem without quotas.
func mountMemory(t *testing.T) string {
	t.Helper()
	disks.RequireRoot(t)
	dir := t.TempDir()
	fixture.Must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { fixture.Must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func TestBackendFitsTheFilesystemAndWhatIsAskedOfItsQuotas(t *testing.T) {
	btrfs, memory := disks.New(t, disks.Btrfs, 0).Dir, mountMemory(t)
	for _, tc := range []struct {
		title, dir string
		opts       detect.Options
		want       string
		enforces   bool
	}{
		{"without quotas", memory, detect.Options{}, "plain", false},
		{"ignored", btrfs, detect.Options{IgnoreQuota: true}, "btrfs", false},
		{"with quotas", btrfs, detect.Options{RequireQuota: true}, "btrfs", true},
	} {
		b, err := detectOn(t, tc.dir, tc.opts)
		if err != nil || b.Name() != tc.want || b.Enforces() != tc.enforces {
			t.Errorf("%s: %v, %v, want %s", tc.title, b, err, tc.want)
		}
	}
	if b, err := detectOn(t, memory, detect.Options{RequireQuota: true}); !errors.Is(
		err, volume.ErrUnavailable,
	) {
		t.Errorf("required and absent: %v, %v, want ErrUnavailable", b, err)
	}
}
