package mount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestBindHasTheAttributesAskedFor(t *testing.T) {
	for _, tc := range []struct {
		title    string
		source   kind
		readOnly bool
		flags    []string
		shown    []string
		hidden   []string
	}{
		{"directory", emptyDir, false, nil, []string{"rw", "nosuid", "nodev"}, []string{"noexec", "nosymfollow"}},
		{"file", emptyFile, false, nil, []string{"rw", "nosuid", "nodev"}, []string{"noexec"}},
		{"read-only directory", fullDir, true, nil, []string{"ro", "nosuid", "nodev"}, []string{"rw"}},
		{"read-only file", fullFile, true, nil, []string{"ro", "nosuid", "nodev"}, []string{"rw"}},
		{"ro as a flag", fullDir, false, []string{"ro"}, []string{"ro"}, []string{"rw"}},
		{"noexec", emptyDir, false, []string{"noexec"}, []string{"rw", "noexec", "nosuid", "nodev"}, nil},
		{"nosymfollow", emptyDir, false, []string{"nosymfollow"}, []string{"nosymfollow"}, nil},
		{"nodiratime", emptyDir, false, []string{"nodiratime"}, []string{"nodiratime"}, nil},
		{"noatime", emptyDir, false, []string{"noatime"}, []string{"noatime"}, []string{"relatime"}},
		{"relatime", emptyDir, false, []string{"relatime"}, []string{"relatime"}, []string{"noatime"}},
		{"strictatime", emptyDir, false, []string{"strictatime"}, []string{"nosuid"}, []string{"relatime", "noatime"}},
		{
			"all at once", fullFile, true,
			[]string{"nosuid", "nodev", "noexec", "nosymfollow", "nodiratime", "noatime"},
			[]string{"ro", "nosuid", "nodev", "noexec", "nosymfollow", "nodiratime", "noatime"},
			[]string{"rw", "relatime"},
		},
	} {
		t.Run(tc.title, func(t *testing.T) {
			base := newBase(t)
			at := target(t, base, "target")
			if err := Bind(newSource(t, tc.source), at, options(t, tc.readOnly, tc.flags...)); err != nil {
				t.Fatal(err)
			}
			wantMounts(t, at.String(), 1)
			wantAttributes(t, at.String(), tc.shown, tc.hidden)
			wantWritable(t, at.String(), tc.source, !slices.Contains(tc.shown, "ro"))
		})
	}
}

func wantAttributes(t *testing.T, path string, shown, hidden []string) {
	t.Helper()
	infos := mountsAt(t, path)
	have := infos[len(infos)-1].MountOptions
	for _, flag := range shown {
		if !slices.Contains(have, flag) {
			t.Errorf("the mount has %v, without %s", have, flag)
		}
	}
	for _, flag := range hidden {
		if slices.Contains(have, flag) {
			t.Errorf("the mount has %v, with %s", have, flag)
		}
	}
}

//nolint:revive // want is a column of the tests' tables
func wantWritable(t *testing.T, path string, k kind, want bool) {
	t.Helper()
	if k == emptyDir || k == fullDir {
		path = filepath.Join(path, "new")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		f.Close()
	}
	if (err == nil) != want || !want && !errors.Is(err, syscall.EROFS) {
		t.Errorf("writing %s: %v, want it to work: %v", path, err, want)
	}
}

// The pool's own mount may be stricter than the volume's. What it forbids stays forbidden.
func TestBindKeepsWhatThePoolsMountForbids(t *testing.T) {
	base := newBase(t)
	pool := filepath.Join(base, "pool")
	put(t, pool, emptyDir)
	if err := unix.Mount(
		"tmpfs",
		pool,
		"tmpfs",
		unix.MS_NOEXEC|unix.MS_NOSYMFOLLOW|unix.MS_NOATIME,
		"",
	); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(pool, "data"), fullDir)
	at := target(t, base, "target")
	if err := Bind(pinned(t, filepath.Join(pool, "data")), at, options(t, true)); err != nil {
		t.Fatal(err)
	}
	wantAttributes(t, at.String(),
		[]string{"ro", "nosuid", "nodev", "noexec", "nosymfollow", "noatime"}, nil)
}

func TestPublishTwiceMountsOnce(t *testing.T) {
	for _, source := range []kind{fullDir, fullFile} {
		for _, readOnly := range []bool{false, true} {
			t.Run(string(source)+" "+strconv.FormatBool(readOnly), func(t *testing.T) {
				at, from := target(t, newBase(t), "target"), newSource(t, source)
				for range 3 {
					if err := Bind(from, at, options(t, readOnly)); err != nil {
						t.Fatal(err)
					}
				}
				wantMounts(t, at.String(), 1)
				for range 3 {
					if err := Unbind(at); err != nil {
						t.Fatal(err)
					}
				}
				wantMounts(t, at.String(), 0)
				wantAbsent(t, at.String())
			})
		}
	}
}

func TestBindAgainWithOtherAttributes(t *testing.T) {
	for _, tc := range []struct {
		title         string
		first, second []string
		want          error
	}{
		{"writable, then read-only", nil, []string{"ro"}, volume.ErrIncompatible},
		{"read-only, then writable", []string{"ro"}, nil, volume.ErrIncompatible},
		{"then noexec", nil, []string{"noexec"}, volume.ErrIncompatible},
		{"then nosymfollow", []string{"noexec"}, []string{"noexec", "nosymfollow"}, volume.ErrIncompatible},
		{"what is on anyway", nil, []string{"nosuid", "nodev"}, nil},
		{"stricter than asked for", []string{"noexec"}, nil, nil},
		{"other access times", []string{"noatime"}, []string{"relatime"}, nil},
	} {
		t.Run(tc.title, func(t *testing.T) {
			at, source := target(t, newBase(t), "target"), newSource(t, fullDir)
			if err := Bind(source, at, options(t, false, tc.first...)); err != nil {
				t.Fatal(err)
			}
			before := mountsAt(t, at.String())[0].MountOptions
			if err := Bind(source, at, options(t, false, tc.second...)); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			wantMounts(t, at.String(), 1)
			wantAttributes(t, at.String(), before, nil)
		})
	}
}

func TestBindDoesNotHideAnotherMount(t *testing.T) {
	base := newBase(t)
	at, mine := target(t, base, "target"), newSource(t, fullDir)
	other := filepath.Join(t.TempDir(), "other")
	put(t, other, fullDir)
	put(t, at.String(), emptyDir)
	mountByHand(t, other, at.String())
	before := treeState(t, base)
	if err := Bind(mine, at, Options{}); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("%v, want ErrInUse", err)
	}
	wantMounts(t, at.String(), 1)
	wantTreeState(t, base, before)
}

func TestBindOnWhatIsThereAlready(t *testing.T) {
	for _, tc := range []struct {
		source, there kind
		want          error
	}{
		{emptyDir, emptyDir, nil},
		{emptyFile, emptyFile, nil},
		{emptyDir, fullDir, volume.ErrInUse},
		{emptyFile, fullFile, volume.ErrInUse},
		{emptyDir, emptyFile, volume.ErrInUse},
		{emptyDir, fullFile, volume.ErrInUse},
		{emptyFile, emptyDir, volume.ErrInUse},
		{emptyFile, fullDir, volume.ErrInUse},
		{emptyDir, linkToDir, volume.ErrInUse},
		{emptyFile, linkToFile, volume.ErrInUse},
		{emptyDir, danglingTo, volume.ErrInUse},
		{emptyFile, danglingTo, volume.ErrInUse},
		{emptyDir, fifo, volume.ErrInUse},
		{emptyFile, fifo, volume.ErrInUse},
	} {
		t.Run(string(tc.source)+" on "+string(tc.there), func(t *testing.T) {
			base := newBase(t)
			at := target(t, base, "target")
			put(t, at.String(), tc.there)
			before := treeState(t, base)
			err := Bind(newSource(t, tc.source), at, options(t, false))
			if !errors.Is(err, tc.want) {
				t.Fatalf("%v, want %v", err, tc.want)
			}
			if err != nil {
				if strings.Contains(err.Error(), "%!") {
					t.Errorf("%q was formatted with what it does not fit", err)
				}
				wantMounts(t, at.String(), 0)
				wantTreeState(t, base, before)
				return
			}
			wantMounts(t, at.String(), 1)
			if err := Unbind(at); err != nil {
				t.Error(err)
			}
			wantAbsent(t, at.String())
		})
	}
}

// Somebody may be able to exchange a directory of the path for a link. He must not choose where the
// volume appears.
func TestLinkOnTheWayIsRefused(t *testing.T) {
	for _, way := range []string{"link/target", "pods/link/target", "pods/link/deeper/target"} {
		t.Run(way, func(t *testing.T) {
			base, outside := newBase(t), t.TempDir()
			if err := os.MkdirAll(filepath.Join(outside, "deeper"), 0o755); err != nil {
				t.Fatal(err)
			}
			link := way[:strings.Index(way, "link")+len("link")]
			if err := os.MkdirAll(filepath.Dir(filepath.Join(base, link)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(outside, filepath.Join(base, link)); err != nil {
				t.Fatal(err)
			}
			before := treeState(t, outside)
			at := target(t, base, way)
			source := newSource(t, emptyDir)
			if err := Bind(source, at, options(t, false)); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("bind: %v, want ErrInvalid", err)
			}
			if err := Unbind(at); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("unbind: %v, want ErrInvalid", err)
			}
			if shown, err := Shows(at, source); shown || !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("shows: %v, %v, want ErrInvalid", shown, err)
			}
			wantTreeState(t, outside, before)
		})
	}
}

func TestBindNeedsTheTargetsParent(t *testing.T) {
	at := target(t, newBase(t), "pods/uid/target")
	if err := Bind(newSource(t, emptyDir), at, options(t, false)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want os.ErrNotExist", err)
	}
}

func TestBindFromADescriptorSurvivesARename(t *testing.T) {
	at, source := target(t, newBase(t), "target"), newSource(t, fullDir)
	if err := os.Rename(source.Name(), source.Name()+".moved"); err != nil {
		t.Fatal(err)
	}
	put(t, source.Name(), emptyDir) // what a path would find now
	if err := Bind(source, at, options(t, false)); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(at.String(), "file")); string(
		content,
	) != fullContent {
		t.Errorf("the mount shows %q, %v", content, err)
	}
}

// What the host has mounted inside a volume's data does not belong to the volume.
func TestMountInsideTheVolumeIsNotShown(t *testing.T) {
	base := newBase(t)
	secret, data := filepath.Join(base, "secret"), filepath.Join(base, "data")
	put(t, secret, fullDir)
	put(t, data, emptyDir)
	put(t, filepath.Join(data, "inner"), emptyDir)
	mountByHand(t, secret, filepath.Join(data, "inner"))
	at := target(t, base, "target")
	if err := Bind(pinned(t, data), at, options(t, false)); err != nil {
		t.Fatal(err)
	}
	if got := treeState(t, filepath.Join(at.String(), "inner")); len(got) != 1 {
		t.Errorf("the volume shows %q", got)
	}
}

func TestVolumeOnAReadOnlyFilesystemIsNotPublishedWritable(t *testing.T) {
	base := newBase(t)
	pool := filepath.Join(base, "pool")
	put(t, pool, emptyDir)
	if err := unix.Mount("tmpfs", pool, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(pool, "data"), fullDir)
	if err := unix.Mount("tmpfs", pool, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	source, at := pinned(t, filepath.Join(pool, "data")), target(t, base, "target")
	if err := Bind(source, at, options(t, false)); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("writable: %v, want ErrUnavailable", err)
	}
	wantAbsent(t, at.String())
	if err := Bind(source, at, options(t, true)); err != nil {
		t.Errorf("read-only: %v", err)
	}
}

// If a volume is removed while it is published, no directory is left, which would block the removal
// of the pod.
func TestBindThatFailsLeavesNoTarget(t *testing.T) {
	at, source := target(t, newBase(t), "target"), newSource(t, emptyDir)
	if err := os.Remove(source.Name()); err != nil {
		t.Fatal(err)
	}
	err := Bind(source, at, options(t, false))
	if err == nil {
		t.Skip("this kernel binds a removed directory")
	}
	wantMounts(t, at.String(), 0)
	wantAbsent(t, at.String())
}

func TestBindOfAnUnmountedFilesystemIsUnavailable(t *testing.T) {
	base := newBase(t)
	pool := filepath.Join(base, "pool")
	put(t, pool, emptyDir)
	if err := unix.Mount("tmpfs", pool, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(pool, "data"), fullDir)
	source := pinned(t, filepath.Join(pool, "data"))
	if err := unix.Unmount(pool, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	at := target(t, base, "target")
	if err := Bind(source, at, options(t, false)); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	if _, err := os.Stat(at.String()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target is left: %v", err)
	}
}
