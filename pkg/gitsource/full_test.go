package gitsource

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const mib = 1 << 20

// filesOf are files of 1 MiB each that no filesystem makes smaller. They are equal if their names
// are, which begin with the prefix.
func filesOf(prefix string, n int) map[string]string {
	files := make(map[string]string, n)
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		var seed [32]byte
		copy(seed[:], name)
		text := make([]byte, mib)
		_, _ = rand.NewChaCha8(seed).Read(text)
		files[name] = string(text)
	}
	return files
}

func merged(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// wantTree compares the names of the files that pods see, and the commit.
func wantTree(t *testing.T, p *pool.Pool, commit string, files map[string]string) {
	t.Helper()
	dir, err := dirOf(p, p.GitContents()[0].ID)
	fixture.Must(t, err)
	defer dir.Close()
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(openat.Path(dir), "site", name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v, want others", name, len(got), err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(openat.Path(dir), "site"))
	if err != nil || len(entries) != len(files) {
		t.Errorf("%d files, %v, want %d", len(entries), err, len(files))
	}
	if got := fileOf(t, p, volume.GitCommitFile); got != commit+"\n" {
		t.Errorf("the commit is %q, want %s", got, commit)
	}
}

// wantFull refreshes until people are told, and wants them to be told of the size.
func wantFull(t *testing.T, s *Contents, cause string) {
	t.Helper()
	for range staleFailures {
		s.refreshNow(t)
	}
	_, why, stale := s.Stale(requestOf(t, 1).Target)
	if !stale || !strings.Contains(why, cause) || !strings.Contains(why, "a larger size") {
		t.Errorf("stale: %v, %q, want %q and the remedy", stale, why, cause)
	}
}

// The volume of 16 MiB has one tree after the other. What they share is counted once.
func TestTreeBesideWhichTheOldOneDoesNotFitIsNotShown(t *testing.T) {
	for _, fstype := range disks.QuotaTypes() {
		t.Run(fstype, func(t *testing.T) {
			p := openPool(t, "p", disks.New(t, fstype, 0).Dir)
			f := fixture.NewFetcher(t)
			s := startContents(t, f, p)
			f.Commit(commitOf("a"), filesOf("old", 10))
			fixture.Must(t, open(t, s, 1))

			f.Commit(commitOf("b"), filesOf("new", 10))
			wantFull(t, s, "no room for it beside the tree that it "+
				"replaces")
			wantTree(t, p, commitOf("a"), filesOf("old", 10))
			wantBuilding(t, p, 0)

			f.Commit(commitOf("c"), merged(filesOf("old", 10), filesOf("new", 4)))
			s.refreshNow(t)
			wantTree(t, p, commitOf("c"), merged(filesOf("old", 10), filesOf("new", 4)))

			f.Commit(commitOf("d"), merged(filesOf("old", 10), filesOf("new", 7)))
			wantFull(t, s, "no space")
			wantBuilding(t, p, 1) // the last one, in its grace

			f.Commit(commitOf("e"), filesOf("old", 1))
			s.refreshNow(t)
			wantTree(t, p, commitOf("e"), filesOf("old", 1))
			if _, _, stale := s.Stale(requestOf(t, 1).Target); stale {
				t.Error("the content is refreshed, and stale")
			}
		})
	}
}

func TestTreeThatIsTooLargeForTheFirstPodSaysWhatToDo(t *testing.T) {
	s, p, f := newContents(t)
	f.Commit(commitOf("a"), filesOf("x", 17))
	err := open(t, s, 1)
	for _, want := range []string{"https://h/site", strconv.Itoa(16 * mib), "a larger size", "subPath"} {
		if !errors.Is(err, volume.ErrNoSpace) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %v that says %s", err, volume.ErrNoSpace, want)
		}
	}
	wantBuilding(t, p, 0)
	s.backoff.least = 0
	f.Commit(commitOf("b"), filesOf("x", 1))
	fixture.Must(t, open(t, s, 1))
	wantTree(t, p, commitOf("b"), filesOf("x", 1))
}

// Others have taken the disk's room.
func TestFullDiskKeepsTheLastContent(t *testing.T) {
	for _, tc := range []struct {
		fstype string
		mkfs   []string
	}{{disks.Ext4, []string{"-m", "0"}}, {disks.XFS, nil}, {disks.Btrfs, []string{"--mixed"}}} {
		t.Run(tc.fstype, func(t *testing.T) {
			t.Parallel()
			disk := disks.New(t, tc.fstype, 320*mib, disks.MkfsArgs(tc.mkfs...))
			p := openPool(t, "p", disk.Dir)
			f := fixture.NewFetcher(t)
			s := startContents(t, f, p)
			f.Commit(commitOf("a"), filesOf("old", 2))
			fixture.Must(t, open(t, s, 1))
			disk.Fill(t)
			f.Commit(commitOf("b"), filesOf("new", 2))
			wantFull(t, s, "no room")
			wantTree(t, p, commitOf("a"), filesOf("old", 2))
			wantBuilding(t, p, 0)
			s.Close()

			// A new process shows what there is.
			s = startContents(t, f, p)
			fixture.Must(t, open(t, s, 1))
			wantFull(t, s, "no room")
			disk.Unfill(t)
			s.refreshNow(t)
			wantTree(t, p, commitOf("b"), filesOf("new", 2))
		})
	}
}

// A driver that was killed has left a tree that takes all of the volume, or all of the disk.
func TestLeftoverThatTakesAllRoomIsNotInTheWay(t *testing.T) {
	for _, fstype := range disks.QuotaTypes() {
		t.Run(fstype, func(t *testing.T) {
			p := openPool(t, "p", disks.New(t, fstype, 0).Dir)
			f := fixture.NewFetcher(t)
			f.Commit(commitOf("a"), filesOf("old", 2))
			s := startContents(t, f, p)
			fixture.Must(t, open(t, s, 1))
			s.Close()
			fillVolume(t, p)

			s = startContents(t, f, p)
			s.grace = time.Nanosecond
			fixture.Must(t, open(t, s, 1))
			s.Sweep(t.Context())
			wantBuilding(t, p, 0)
			wantTree(t, p, commitOf("a"), filesOf("old", 2))
			f.Commit(commitOf("b"), filesOf("new", 2))
			s.refreshNow(t)
			wantTree(t, p, commitOf("b"), filesOf("new", 2))
		})
	}
}

// fillVolume leaves a new tree that takes the quota, for its data and its names.
func fillVolume(t *testing.T, p *pool.Pool) {
	t.Helper()
	dir, err := dirOf(p, p.GitContents()[0].ID)
	fixture.Must(t, err)
	defer dir.Close()
	// It has not said of which commit the tree is, either.
	said := filepath.Join(openat.Path(dir), volume.GitCommitFile)
	fixture.Must(t, os.WriteFile(said, []byte(commitOf("0")+"\n"), 0o600))
	leftover := openat.Path(dir) + "/../building/new-0123456789abcdef"
	fixture.Must(t, os.Mkdir(leftover, 0o755))
	for size := mib; size > 0; size /= 4 {
		for i := 0; ; i++ {
			err := os.WriteFile(fmt.Sprintf("%s/%d-%d", leftover, size, i), make([]byte, size), 0o644)
			if err == nil {
				err = syncfs(leftover)
			}
			if err != nil {
				if !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
					t.Fatal(err)
				}
				break
			}
		}
	}
}

func syncfs(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
