package driver

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/fuse"
)

func TestInspectJudgesTheDiskOfAPoolThatDoesNotExistYet(t *testing.T) {
	disks.RequireRoot(t)
	for title, c := range map[string]struct {
		flags             uintptr
		wantNote, wantErr string
	}{
		"read-only": {unix.MS_RDONLY, "", "mounted read-only"},
		"noexec":    {unix.MS_NOEXEC, "noexec", ""},
		"fit":       {0, "nothing is there yet", ""},
	} {
		t.Run(title, func(t *testing.T) {
			dir := t.TempDir()
			fixture.Must(t, unix.Mount("tmpfs", dir, "tmpfs", c.flags, ""))
			defer func() { fixture.Must(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
			notes, faults := Inspect(t.Context(), config.Config{
				KubeletDir: t.TempDir(),
				Pools:      []config.Pool{{Name: "a", Path: filepath.Join(dir, "not/yet")}},
			})
			if !strings.Contains(strings.Join(notes, "; "), c.wantNote) {
				t.Errorf("the notes are %q, want %q", notes, c.wantNote)
			}
			if got := errors.Join(faults...); (got == nil) != (c.wantErr == "") ||
				got != nil && !strings.Contains(got.Error(), c.wantErr) {
				t.Errorf("the faults are %v, want %q", got, c.wantErr)
			}
		})
	}
}

func TestKubeletsDirectoryThatHangsIsNamed(t *testing.T) {
	dir := t.TempDir()
	filesystem := fuse.Mount(t, dir)
	defer filesystem.Die()
	filesystem.Hang()
	pools := newPoolSet(config.Config{KubeletDir: dir}, nodeserver.NewPublications())
	pools.asking = stuck.NewCalls(10 * time.Millisecond)
	_, err := pools.inspectKubelet(t.Context())
	if !errors.Is(err, volume.ErrUnresponsive) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	filesystem.WantAlive(t)
}
