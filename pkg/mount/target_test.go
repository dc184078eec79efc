package mount

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestTargetLiesBelowTheKubeletsDirectory(t *testing.T) {
	for _, tc := range []struct{ base, target string }{
		{"/var/lib/kubelet", "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/pvc/mount"},
		{"/var/lib/kubelet", "/var/lib/kubelet/x"},
		{"/var/lib/kubelet", "/var/lib/kubelet/..x"},
		{"/var/lib/kubelet", "/var/lib/kubelet/with blank"},
		{"/", "/x"},
	} {
		at, err := ParseTarget(tc.base, tc.target)
		if err != nil || at.String() != tc.target {
			t.Errorf("%s below %s: %q, %v", tc.target, tc.base, at, err)
		}
	}
}

func TestTargetElsewhereIsRefused(t *testing.T) {
	const base = "/var/lib/kubelet"
	for _, s := range []string{
		"",
		"/",
		".",
		"relative",
		"var/lib/kubelet/x",
		base,
		base + "/",
		base + "/x/",
		base + "//x",
		base + "/./x",
		base + "/x/..",
		base + "/../kubelet/x",
		base + "/../../../etc",
		base + "2/x",
		base + "x",
		"/etc/passwd",
		"/VAR/lib/kubelet/x",
		base + "/x\x00",
		base + "/x\x00/../../../../etc",
		base + "/" + strings.Repeat("x", 4096),
		base + strings.Repeat("/x", 1<<20),
	} {
		if at, err := ParseTarget(base, s); !errors.Is(err, volume.ErrInvalid) || at != (Target{}) {
			t.Errorf("ParseTarget(%.60q) = %v, %v, want ErrInvalid", s, at, err)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	const base = "/var/lib/kubelet"
	for _, s := range []string{
		"", "/", base, base + "/x", base + "/../x", base + "//x", base + "/x\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := ParseTarget(base, s)
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) || at != (Target{}) {
				t.Errorf("%v, %v: want no target and ErrInvalid", at, err)
			}
			return
		}
		if at.String() != s || path.Clean(s) != s || !strings.HasPrefix(s, base+"/") ||
			strings.ContainsRune(s, 0) {
			t.Errorf("ParseTarget(%q) = %q", s, at)
		}
	})
}

// The pod that reads a volume through its target may be anybody's: a default ACL in kubelet's
// directory is not to open the target while nothing is mounted there.
func TestTargetInheritsNoACL(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			base := disks.New(t, fstype, 0).Dir
			disks.SetDefaultACL(t, base)
			for fileType, want := range map[uint32]os.FileMode{
				unix.S_IFDIR: os.ModeDir | dirMode, unix.S_IFREG: fileMode,
			} {
				at := target(t, base, strconv.Itoa(int(fileType)))
				opened, err := at.open()
				if err != nil {
					t.Fatal(err)
				}
				defer opened.close()
				if created, err := opened.create(fileType); err != nil || !created {
					t.Fatal(created, err)
				}
				info, err := os.Lstat(at.String())
				if err != nil {
					t.Fatal(err)
				}
				if have := disks.ACLsOf(t, at.String()); info.Mode() != want || len(have) > 0 {
					t.Errorf("%s has mode %v and the ACLs %v, want %v and none", at, info.Mode(), have, want)
				}
			}
		})
	}
}

func TestKubeletsDirectoryMayBeALink(t *testing.T) {
	disks.RequireRoot(t)
	base := t.TempDir()
	link := base + "-link"
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	source, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	byLink, byName := target(t, link, "a"), target(t, base, "a")
	if err := Bind(source, byLink, Options{}); err != nil {
		t.Fatal(err)
	}
	if shown, err := Shows(byName, source); err != nil || !shown {
		t.Errorf("under the directory's own name: %v, %v", shown, err)
	}
	if _, mounted, err := At(byLink); err != nil || !mounted {
		t.Errorf("in the mount table: %v, %v", mounted, err)
	}
	if err := Unbind(byLink); err != nil {
		t.Error(err)
	}
}
