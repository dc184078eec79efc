package hostpath

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// What exists, and the types that accept it, as in Kubernetes' own test
// (pkg/volume/hostpath/host_path_test.go, TestHostPathTypeCheckerInternal). There File and
// FileOrCreate also accept sockets and devices, because of a fake; Kubernetes' real checker
// compares the file type, as this driver does.
func TestTypesTakeWhatHostPathTakes(t *testing.T) {
	for _, tc := range []struct {
		title string
		there uint32 // 0: nothing
		taken []volume.Type
	}{
		{"nothing, asked for as a directory", 0, []volume.Type{volume.DirectoryOrCreate, volume.FileOrCreate}},
		{"a directory", unix.S_IFDIR, []volume.Type{volume.DirectoryOrCreate, volume.Directory}},
		{"a regular file", unix.S_IFREG, []volume.Type{volume.FileOrCreate, volume.File}},
		{"a socket", unix.S_IFSOCK, []volume.Type{volume.Socket}},
		{"a character device", unix.S_IFCHR, []volume.Type{volume.CharDevice}},
		{"a block device", unix.S_IFBLK, []volume.Type{volume.BlockDevice}},
		{"a FIFO", unix.S_IFIFO, nil},
	} {
		for _, wanted := range volume.Types() {
			t.Run(fmt.Sprintf("%s as %s", tc.title, wanted), func(t *testing.T) {
				root := newTree(t)
				path := filepath.Join(mkdir(t, root, "srv"), "x")
				if tc.there != 0 {
					putKind(t, path, tc.there)
				}
				h := NewHost(root, NewRules([]Rule{{Path: "/srv/x", Types: volume.Types()}}))
				err := h.try(Use{Path: "/srv/x", Type: wanted, ReadOnly: true}, volume.Spec{Mode: 0o750})
				if slices.Contains(tc.taken, wanted) {
					if err != nil {
						t.Error(err)
					}
					return
				}
				found := kindNames[tc.there]
				if tc.there == 0 {
					found = "does not exist"
				}
				wantError(t, err, volume.ErrPrecondition, "/srv/x", found, string(wanted))
			})
		}
	}
}

func TestWhatIsMadeHasExactlyItsModeAndOwnerWhateverTheUmask(t *testing.T) {
	for _, fstype := range disks.Types() {
		root := disks.New(t, fstype, 0).Dir
		for _, umask := range []int{0, 0o022, 0o077, 0o777} {
			for _, tc := range []volume.Spec{
				{Type: volume.DirectoryOrCreate, Mode: 0o755},
				{Type: volume.DirectoryOrCreate, Mode: 0o2777, UID: 1000, GID: 2000},
				{Type: volume.FileOrCreate, Mode: 0o644},
				{Type: volume.FileOrCreate, Mode: 0o666, UID: 1000, GID: 2000},
			} {
				t.Run(fmt.Sprintf("%s umask %o %s %o", fstype, umask, tc.Type, tc.Mode), func(t *testing.T) {
					dir := strings.ReplaceAll(t.Name(), "/", "-")
					parent := mkdir(t, root, "srv", dir)
					// mkdir(2) inherits group and setgid of the parent.
					if err := os.Chmod(parent, 0o777|os.ModeSetgid); err != nil {
						t.Fatal(err)
					}
					old := unix.Umask(umask)
					err := allow(root).try(Use{Path: "/srv/" + dir + "/x", Type: tc.Type}, tc)
					unix.Umask(old)
					if err != nil {
						t.Fatal(err)
					}
					wantStat(t, filepath.Join(parent, "x"), tc)
					wantOnly(t, parent, "x")
				})
			}
		}
	}
}

func TestWhatIsMadeInheritsNoACL(t *testing.T) {
	for _, fstype := range disks.Types() {
		root := disks.New(t, fstype, 0).Dir
		parent := mkdir(t, root, "srv")
		disks.SetDefaultACL(t, parent)
		for _, spec := range []volume.Spec{
			{Type: volume.DirectoryOrCreate, Mode: 0o770, GID: 2000},
			{Type: volume.FileOrCreate, Mode: 0o660, GID: 2000},
		} {
			name := string(spec.Type)
			if err := allow(root).try(Use{Path: "/srv/" + name, Type: spec.Type}, spec); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(parent, name)
			wantStat(t, path, spec)
			if have := disks.ACLsOf(t, path); len(have) > 0 {
				t.Errorf("%s: %s has the ACLs %v", fstype, name, have)
			}
		}
	}
}

func wantStat(t *testing.T, path string, want volume.Spec) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != want.Mode || st.Uid != want.UID || st.Gid != want.GID {
		t.Errorf("%s has mode %o and owner %d:%d, want %o and %d:%d", path, st.Mode&0o7777, st.Uid,
			st.Gid, want.Mode, want.UID, want.GID)
	}
}

// wantOnly checks that a directory has these entries alone: nothing half made is left.
func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("%s has %q, want %q", dir, names, want)
	}
}

func TestDirectoryOrCreateMakesParentsAndFileOrCreateDoesNot(t *testing.T) {
	root := newTree(t)
	mkdir(t, root, "srv")
	h := allow(root)
	old := unix.Umask(0o077)
	err := h.try(Use{Path: "/srv/a/b/c", Type: volume.DirectoryOrCreate},
		volume.Spec{Mode: 0o700, UID: 7})
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, parent := range []string{"srv/a", "srv/a/b"} {
		wantStat(t, filepath.Join(root, parent), volume.Spec{Mode: 0o755})
	}
	wantStat(t, filepath.Join(root, "srv/a/b/c"), volume.Spec{Mode: 0o700, UID: 7})
	err = h.try(Use{Path: "/srv/d/file", Type: volume.FileOrCreate}, volume.Spec{Mode: 0o644})
	wantError(t, err, volume.ErrPrecondition, "/srv/d/file", "does not exist", "parents")
	wantOnly(t, filepath.Join(root, "srv"), "a")
}

// If an allowed root does not exist, its disk is probably not mounted.
func TestAbsentRootIsNotMade(t *testing.T) {
	root := newTree(t)
	err := allow(
		root,
	).try(Use{Path: "/srv/x", Type: volume.DirectoryOrCreate}, volume.Spec{Mode: 0o755})
	wantError(t, err, volume.ErrPrecondition, "/srv does not exist", "root of the hostPaths rule")
	wantOnly(t, root)
}

func TestWhatExistsKeepsItsModeOwnerAndContent(t *testing.T) {
	root := newTree(t)
	mkdir(t, root, "srv")
	file := filepath.Join(root, "srv/file")
	write(t, file, "precious")
	if err := os.Chown(file, 5, 6); err != nil {
		t.Fatal(err)
	}
	if err := allow(root).try(
		Use{Path: "/srv/file", Type: volume.FileOrCreate},
		volume.Spec{Mode: 0o644, UID: 1000},
	); err != nil {
		t.Fatal(err)
	}
	wantStat(t, file, volume.Spec{Mode: 0o600, UID: 5, GID: 6})
	if content, err := os.ReadFile(file); string(content) != "precious" {
		t.Errorf("the file has %q, %v", content, err)
	}
}

func TestNothingIsMadeInAReadOnlyRoot(t *testing.T) {
	root := newTree(t)
	mkdir(t, root, "srv")
	h := NewHost(root, NewRules([]Rule{{Path: "/srv", ReadOnly: true}}))
	for _, wanted := range []volume.Type{volume.DirectoryOrCreate, volume.FileOrCreate} {
		use := Use{Path: "/srv/x", Type: wanted, ReadOnly: true}
		err := h.try(use, volume.Spec{Mode: 0o777, UID: 1000})
		wantError(t, err, volume.ErrPrecondition, "/srv/x does not exist", "read-only")
	}
	wantOnly(t, filepath.Join(root, "srv"))
}

// A mount that the driver makes read-only may be writable in the container.
func TestReadOnlyRootIsOpenedOnlyForPodsThatWantItReadOnly(t *testing.T) {
	root := newTree(t)
	mkdir(t, root, "srv/dir")
	mkdir(t, root, "data")
	h := NewHost(root, NewRules([]Rule{{Path: "/srv", ReadOnly: true, Inline: true}, {Path: "/data"}}))
	for _, tc := range []struct {
		path             string
		inline, readOnly bool
		want             string
	}{
		{"/srv", false, false, "set persistentVolumeClaim.readOnly: true"},
		{"/srv/dir", true, false, "set csi.readOnly: true"},
		{"/srv", false, true, ""},
		{"/srv/dir", true, true, ""},
		{"/data", false, false, ""},
		{"/data", false, true, ""},
	} {
		use := Use{Path: tc.path, Type: volume.Directory, Inline: tc.inline, ReadOnly: tc.readOnly}
		err := h.try(use, volume.Spec{})
		if tc.want == "" {
			if err != nil {
				t.Errorf("%+v: %v", use, err)
			}
			continue
		}
		wantError(t, err, volume.ErrForbidden, tc.path, "the hostPaths rule for /srv", tc.want)
	}
}

// A rule for more paths, which could be written to, does not undo the one that was written for this
// path.
func TestReadOnlyRuleOfALongerPathDecides(t *testing.T) {
	root := newTree(t)
	write(t, filepath.Join(mkdir(t, root, "srv/models"), "weights"), "")
	h := NewHost(root, NewRules([]Rule{
		{Path: "/srv", Types: []volume.Type{volume.File}}, {Path: "/srv/models", ReadOnly: true},
	}))
	err := h.try(Use{Path: "/srv/models/weights", Type: volume.File}, volume.Spec{})
	wantError(t, err, volume.ErrForbidden, "the hostPaths rule for /srv/models")
}

func TestNoLinkIsFollowedAnywhere(t *testing.T) {
	root := newTree(t)
	mkdir(t, root, "srv/real/dir")
	secret := mkdir(t, root, "secret")
	write(t, filepath.Join(secret, "file"), "secret")
	for link, to := range map[string]string{
		"srv/abs": "/etc", "srv/out": "../secret", "srv/in": "real",
		"srv/magic": "/proc/self/root", "srv/self": ".",
		"srv/real/up": "../..", "srv/file": "../secret/file", "srv/none": "nowhere", "rootlink": "srv",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	h := NewHost(root, NewRules([]Rule{{Path: "/srv"}, {Path: "/rootlink"}, {Path: "/rootlink/real"}}))
	before := listAll(t, root)
	for _, path := range []string{
		"/srv/abs", "/srv/abs/shadow", "/srv/out", "/srv/out/file", "/srv/in", "/srv/in/dir", "/srv/in/new", "/srv/magic", "/srv/magic/etc",
		"/srv/self", "/srv/self/real", "/srv/real/up/secret", "/srv/file", "/srv/none", "/srv/none/new",
		"/rootlink", "/rootlink/real", "/rootlink/real/dir",
	} {
		for _, wanted := range []volume.Type{
			volume.DirectoryOrCreate, volume.FileOrCreate, volume.Directory, volume.File,
		} {
			err := h.try(Use{Path: path, Type: wanted}, volume.Spec{Mode: 0o755})
			wantError(t, err, volume.ErrForbidden, "symbolic link")
		}
	}
	if after := listAll(t, root); !slices.Equal(before, after) {
		t.Errorf("there is now %q, there was %q", after, before)
	}
}

func listAll(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	if err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// A path does not reveal where a bind mount leads.
func TestForbiddenDirectoryIsRefusedUnderAnotherName(t *testing.T) {
	root := newTree(t)
	mkdir(t, root, "etc/kubernetes")
	write(t, filepath.Join(root, "etc/shadow"), "secret")
	mkdir(t, root, "disk/pool/volumes")
	if err := os.Symlink("disk/pool", filepath.Join(root, "pool")); err != nil {
		t.Fatal(err)
	}
	mkdir(t, root, "srv/ok/deep")
	bind(t, filepath.Join(root, "etc"), mkdir(t, root, "srv/etc"))
	bind(t, filepath.Join(root, "etc/kubernetes"), mkdir(t, root, "srv/inner"))
	bind(t, root, mkdir(t, root, "srv/everything"))
	bind(t, filepath.Join(root, "etc"), mkdir(t, root, "srv/parent/below/it"))
	bind(t, filepath.Join(root, "disk"), mkdir(t, root, "srv/disk"))
	h := NewHost(root, NewRules([]Rule{{Path: "/srv"}, {Path: "/disk"}}, "/pool"))
	for _, tc := range []struct {
		path, shows string
		wanted      volume.Type
	}{
		{"/srv/etc", "/etc", volume.Directory},
		{"/srv/etc/shadow", "/etc", volume.File},
		{"/srv/etc/kubernetes", "/etc", volume.Directory},
		{"/srv/inner", "/etc", volume.Directory},
		{"/srv/everything", "/etc", volume.Directory},
		{"/srv/everything/etc/shadow", "/etc", volume.File},
		{"/srv/everything/disk", "/pool", volume.Directory},
		{"/srv/parent", "/etc", volume.Directory},
		{"/srv/parent/below", "/etc", volume.Directory},
		{"/srv", "/etc", volume.Directory},
		{"/disk", "/pool", volume.Directory},
		{"/disk/pool", "/pool", volume.Directory},
		{"/disk/pool/volumes", "/pool", volume.Directory},
		{"/srv/disk/pool", "/pool", volume.Directory},
	} {
		err := h.try(Use{Path: tc.path, Type: tc.wanted}, volume.Spec{})
		wantError(t, err, volume.ErrForbidden, tc.path+" shows "+tc.shows+" under another name")
	}
	if err := h.try(Use{Path: "/srv/ok", Type: volume.Directory}, volume.Spec{}); err != nil {
		t.Error(err)
	}
}

func TestMountsBelowARootCanBeUsed(t *testing.T) {
	root := newTree(t)
	point := mkdir(t, root, "srv/disk")
	if err := unix.Mount("tmpfs", point, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	mkdir(t, point, "data")
	for _, path := range []string{"/srv", "/srv/disk", "/srv/disk/data"} {
		if err := allow(root).try(Use{Path: path, Type: volume.Directory}, volume.Spec{}); err != nil {
			t.Error(err)
		}
	}
}

func TestOnlyTheDeviceThatARuleNamesIsOpened(t *testing.T) {
	root := newTree(t)
	mkdir(t, root, "dev")
	for _, name := range []string{"null", "zero"} {
		putKind(t, filepath.Join(root, "dev", name), unix.S_IFCHR)
	}
	mkdir(t, root, "srv")
	putKind(t, filepath.Join(root, "srv/null"), unix.S_IFCHR)
	putKind(t, filepath.Join(root, "srv/zero"), unix.S_IFCHR)
	h := NewHost(root, NewRules([]Rule{
		{Path: "/dev/null", Types: []volume.Type{volume.CharDevice}},
		{Path: "/srv", Types: volume.Types()},
		{Path: "/dev", Types: []volume.Type{volume.CharDevice}},
		{Path: "/srv/zero", Types: []volume.Type{volume.CharDevice}, ReadOnly: true},
	}))
	if err := h.try(Use{Path: "/dev/null", Type: volume.CharDevice}, volume.Spec{}); err != nil {
		t.Error(err)
	}
	for _, use := range []Use{
		{Path: "/dev/zero", Type: volume.CharDevice},
		{Path: "/dev/null", Type: volume.BlockDevice},
		{Path: "/dev/null", Type: volume.File},
		{Path: "/dev", Type: volume.Directory},
		{Path: "/srv/null", Type: volume.CharDevice},
		{Path: "/srv/zero", Type: volume.CharDevice},
	} {
		wantError(t, h.try(use, volume.Spec{}), volume.ErrForbidden, use.Path, string(use.Type))
	}
}

func TestHostThatCannotBeReachedIsUnavailable(t *testing.T) {
	h := allow(filepath.Join(t.TempDir(), "absent"))
	wantError(t, h.try(Use{Path: "/srv", Type: volume.Directory}, volume.Spec{}),
		volume.ErrUnavailable, "--host-root")
}

func TestNamesThatNoFilesystemHasAreInvalid(t *testing.T) {
	root := newTree(t)
	mkdir(t, root, "srv")
	for _, wanted := range []volume.Type{
		volume.DirectoryOrCreate, volume.FileOrCreate, volume.Directory,
	} {
		err := allow(
			root,
		).try(Use{Path: "/srv/" + strings.Repeat("x", 256), Type: wanted}, volume.Spec{Mode: 0o755})
		wantError(t, err, volume.ErrInvalid)
	}
	wantOnly(t, filepath.Join(root, "srv"))
}
