package hostpath

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// raceEnv names the environment variable with the duration of a race.
const raceEnv = "HOSTPATH_RACE"

func raceTime(t *testing.T) time.Duration {
	t.Helper()
	if s := os.Getenv(raceEnv); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if testing.Short() {
		return 200 * time.Millisecond
	}
	return 2 * time.Second
}

// race runs attackers and a victim concurrently until the time is up.
func race(t *testing.T, victim func(), attackers ...func()) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, attack := range attackers {
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
	for end := time.Now().Add(raceTime(t)); time.Now().Before(end); {
		victim()
	}
	close(stop)
	wg.Wait()
}

// exchange exchanges two names atomically, as a pod with the directory can.
func exchange(t *testing.T, a, b string) func() {
	t.Helper()
	return func() {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			t.Errorf("exchange %s and %s: %v", a, b, err)
		}
	}
}

// A pod with the allowed root exchanges a component of a path for a link to files of the host while
// the path is opened. None of these files is ever opened. (subPath had such bugs: CVE-2017-1002101,
// CVE-2021-25741.)
func TestLinksSwappedInDuringTheCallLeadNowhere(t *testing.T) {
	root := newTree(t)
	secret := mkdir(t, root, "secret/b")
	write(t, filepath.Join(secret, "file"), "the host's secret")
	write(t, filepath.Join(root, "secret/file"), "the host's secret")
	mkdir(t, root, "srv/a/b")
	write(t, filepath.Join(root, "srv/a/b/file"), "the pod's own")
	srv := filepath.Join(root, "srv")
	for link, to := range map[string]string{
		"evil-a":        filepath.Join(root, "secret"),
		"a/evil-b":      "../../secret",
		"a/b/evil-file": filepath.Join(root, "secret/file"),
	} {
		if err := os.Symlink(to, filepath.Join(srv, link)); err != nil {
			t.Fatal(err)
		}
	}
	h, opened := allow(root), 0
	race(
		t,
		func() {
			got, err := h.Open(Use{Path: "/srv/a/b/file", Type: volume.FileOrCreate},
				volume.Spec{Type: volume.FileOrCreate, Mode: 0o644})
			if err != nil {
				return
			}
			defer got.Close()
			opened++
			content, err := os.ReadFile(openat.Path(got))
			if err == nil && strings.Contains(string(content), "secret") {
				t.Fatal("the host's secret was opened")
			}
		},
		exchange(t, filepath.Join(srv, "a"), filepath.Join(srv, "evil-a")),
	)
	wantOnly(t, filepath.Join(root, "secret"), "b", "file")
	wantOnly(t, secret, "file")
	if opened == 0 {
		t.Error("the path was never opened: the race tests nothing")
	}
	t.Logf("opened %d times", opened)
}

// The same while something is made: nothing appears outside of the root, and the secret keeps its
// mode and owner.
func TestNothingIsMadeOrChangedThroughASwappedLink(t *testing.T) {
	root := newTree(t)
	secret := mkdir(t, root, "secret")
	if err := os.Chmod(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	mkdir(t, root, "srv/a")
	srv := filepath.Join(root, "srv")
	if err := os.Symlink(secret, filepath.Join(srv, "evil")); err != nil {
		t.Fatal(err)
	}
	h, made := allow(root), 0
	race(
		t,
		func() {
			for _, wanted := range []volume.Type{volume.DirectoryOrCreate, volume.FileOrCreate} {
				path := "/srv/a/new-" + string(wanted)
				if h.try(Use{Path: path, Type: wanted}, volume.Spec{Mode: 0o666, UID: 1000, GID: 1000}) == nil {
					made++
				}
				// in whichever of them is the directory now, never through the link
				for _, dir := range []string{"a", "evil"} {
					_ = removeBeneath(srv, dir+"/new-"+string(wanted))
				}
			}
		},
		exchange(t, filepath.Join(srv, "a"), filepath.Join(srv, "evil")),
	)
	wantOnly(t, secret)
	wantStat(t, secret, volume.Spec{Mode: 0o700})
	if made == 0 {
		t.Error("nothing was ever made: the race tests nothing")
	}
	t.Logf("made %d times", made)
}

func removeBeneath(dir, rel string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(rel)
}

// A pod that may write to the parent exchanges the directory that the driver is making for one of
// root's, between mkdir(2) and fchown(2). The driver must not give that one to the pod.
func TestDirectoryExchangedWhileItIsMadeIsNotGivenAway(t *testing.T) {
	root := newTree(t)
	srv := mkdir(t, root, "srv")
	victim := filepath.Join(mkdir(t, srv, "parent"), "victim")
	if err := os.Mkdir(victim, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(victim, "file"), "root's own")
	var before unix.Stat_t
	if err := unix.Stat(victim, &before); err != nil {
		t.Fatal(err)
	}
	h, parent := allow(root), filepath.Dir(victim)
	swaps := 0
	race(
		t,
		func() {
			_ = h.try(Use{Path: "/srv/parent/x", Type: volume.DirectoryOrCreate},
				volume.Spec{Mode: 0o777, UID: 1000, GID: 1000})
			_ = removeBeneath(parent, "x")
		},
		func() {
			entries, err := os.ReadDir(parent)
			if err != nil {
				t.Error(err)
			}
			for _, e := range entries {
				if name := filepath.Join(parent, e.Name()); e.Name() != "x" && name != victim {
					if unix.Renameat2(unix.AT_FDCWD, victim, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE) == nil {
						swaps++
					}
				}
			}
		},
	)
	t.Logf("exchanged %d times", swaps)
	checkNotGivenAway(t, parent, before.Ino)
}

// checkNotGivenAway finds a directory by its inode, whatever its name is by now.
func checkNotGivenAway(t *testing.T, parent string, inode uint64) {
	t.Helper()
	entries, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var st unix.Stat_t
		name := filepath.Join(parent, e.Name())
		if err := unix.Lstat(name, &st); err != nil {
			t.Fatal(err)
		}
		if st.Ino == inode {
			wantStat(t, name, volume.Spec{Mode: 0o700})
			return
		}
	}
	t.Error("the directory is gone")
}

// To find the forbidden directories, links in their paths are followed: on some distributions
// /var/run is a link to ../run.
func TestRenamesElsewhereOnTheNodeRefuseNobodyHisPath(t *testing.T) {
	root := newTree(t)
	for _, dir := range []string{"run/containerd", "srv/dir", "elsewhere", "var"} {
		mkdir(t, root, dir)
	}
	if err := os.Symlink("../run", filepath.Join(root, "var/run")); err != nil {
		t.Fatal(err)
	}
	a, b := filepath.Join(root, "elsewhere/a"), filepath.Join(root, "elsewhere/b")
	write(t, a, "")
	write(t, b, "")
	h := allow(root)
	var refused error
	race(
		t,
		func() {
			if err := h.try(Use{Path: "/srv/dir", Type: volume.Directory}, volume.Spec{}); err != nil {
				refused = err
			}
		},
		exchange(t, a, b),
	)
	if refused != nil {
		t.Error(refused)
	}
}
