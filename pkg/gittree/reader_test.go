package gittree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// exchanges is how many trees follow one another while others read.
const exchanges = 200

// numbered is a tree whose files both have its number.
func numbered(n int) []item {
	text := strconv.Itoa(n)
	return []item{{name: "dir/"}, {name: "dir/a", content: text}, {name: "dir/b", content: text}}
}

// bindContent shows a content read-only elsewhere, as a pod sees it.
func bindContent(t testing.TB, f *fixture) string {
	t.Helper()
	pod := t.TempDir()
	dir, err := f.Dir()
	must(t, err)
	defer dir.Close()
	must(t, unix.Mount(openat.Path(dir), pod, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(pod, unix.MNT_DETACH)) })
	must(t, unix.Mount("", pod, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	return pod
}

func TestReadersSeeOneTreeOrTheOtherWhileTreesAreExchanged(t *testing.T) {
	onEach(t, func(f *fixture) {
		f.replace(commit1, "", numbered(0)...)
		pod := bindContent(f.t, f)
		done := make(chan struct{})
		var readers sync.WaitGroup
		readers.Go(func() { readByPath(f.t, pod, done) })
		readers.Go(func() { readInDirectory(f.t, pod, done) })
		for n := 1; n <= exchanges; n++ {
			f.replace(fmt.Sprintf("%040x", n), "", numbered(n)...)
		}
		close(done)
		readers.Wait()
		text, err := os.ReadFile(filepath.Join(pod, repo, "dir/b"))
		if string(text) != strconv.Itoa(exchanges) {
			f.t.Errorf("pods see %q, %v in the end", text, err)
		}
	})
}

// readByPath wants that each path always leads to a file, and that the number grows.
func readByPath(t testing.TB, pod string, done <-chan struct{}) {
	t.Helper()
	last := 0
	for reads := 0; ; reads++ {
		select {
		case <-done:
			t.Logf("read by path %d times", reads)
			return
		default:
		}
		text, err := os.ReadFile(filepath.Join(pod, repo, "dir/a"))
		if err != nil {
			t.Error(err)
			return
		}
		n := 0
		if _, err := fmt.Sscan(string(text), &n); err != nil || n < last {
			t.Errorf("%q follows %d", text, last)
			return
		}
		last = n
	}
}

// readInDirectory wants that an opened directory is of one tree.
func readInDirectory(t testing.TB, pod string, done <-chan struct{}) {
	t.Helper()
	for {
		select {
		case <-done:
			return
		default:
		}
		dir, err := os.OpenRoot(filepath.Join(pod, repo))
		if err != nil {
			t.Error(err)
			return
		}
		a, err := dir.ReadFile("dir/a")
		b, errB := dir.ReadFile("dir/b")
		dir.Close()
		if err := errors.Join(err, errB); err != nil || !bytes.Equal(a, b) {
			t.Errorf("a has %q, b has %q: %v", a, b, err)
			return
		}
	}
}

func TestOpenDirectoryReadsTheOldTreeDuringTheGrace(t *testing.T) {
	onEach(t, func(f *fixture) {
		t := f.t
		f.replace(commit1, "", numbered(1)...)
		old, err := os.OpenRoot(filepath.Join(bindContent(t, f), repo))
		must(t, err)
		defer old.Close()
		f.replace(commit2, "", numbered(2)...)
		f.reopen() // as a driver that starts again does
		must(t, f.RemoveOld(t.Context(), time.Now().Add(DefaultGrace/2)))
		if text, err := old.ReadFile("dir/a"); string(text) != "1" {
			t.Errorf("during the grace: %q, %v", text, err)
		}
		must(t, f.RemoveOld(t.Context(), time.Now().Add(DefaultGrace+time.Second)))
		if text, err := old.ReadFile("dir/a"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after the grace: %q, %v", text, err)
		}
	})
}

// used is what a filesystem has given out, in bytes.
func used(t testing.TB, path string) int64 {
	t.Helper()
	d, err := os.Open(path)
	must(t, err)
	defer d.Close()
	must(t, unix.Syncfs(int(d.Fd())))
	var st unix.Statfs_t
	must(t, unix.Fstatfs(int(d.Fd()), &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize //nolint:gosec // a small disk
}

func TestTwoTreesCountTheirCommonFilesOnce(t *testing.T) {
	onEach(t, func(f *fixture) {
		const size = 40 << 20
		empty := used(f.t, f.data)
		f.replace(commit1, "", item{name: "large", content: strings.Repeat("x", size)}, item{name: "a"})
		one := used(f.t, f.data)
		f.replace(commit2, commit1, item{name: "large", base: "large"}, item{name: "a", content: "new"})
		two := used(f.t, f.data)
		if one-empty < size || two-one > size/4 {
			f.t.Errorf("one tree has %d bytes, the second one adds %d", one-empty, two-one)
		}
	})
}

func TestFullDiskIsNoSpaceAndPodsKeepTheOldTree(t *testing.T) {
	onEach(t, func(f *fixture) {
		t := f.t
		f.replace(commit1, "", site()...)
		const size = 700 << 20 // the disk has 512 MiB
		large := io.MultiReader(bytes.NewReader(headerOfSize(t, size)),
			io.LimitReader(zeros{}, size))
		err := f.Replace(t.Context(), commit2, "", gitwire.Limits{TreeBytes: 1 << 40, Entries: 10}, large)
		if !errors.Is(err, volume.ErrNoSpace) || !errors.Is(err, unix.ENOSPC) ||
			!strings.Contains(err.Error(), "larger size") {
			t.Errorf("%v, want volume.ErrNoSpace and what helps", err)
		}
		f.wantContent(treeOf(commit1, siteState()))
		f.wantBuilding()
		f.replace(commit2, "", site()...)
		f.wantContent(treeOf(commit2, siteState()))
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A disk without any room for a name or a block fails each step up to the exchange.
func TestDiskWithoutAnyRoomLeavesTheOldTree(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 64<<20)
	f := newFixture(t, disk.Dir)
	f.replace(commit1, "", site()...)
	disk.Fill(t)
	err := f.Replace(t.Context(), commit2, "", plenty, bytes.NewReader(archiveOf(t, site()...)))
	if !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("%v, want volume.ErrNoSpace", err)
	}
	f.reopen() // needs no room
	f.wantContent(treeOf(commit1, siteState()))
	f.wantBuilding()
	disk.Unfill(t)
	f.replace(commit2, commit1, second(commit1)...)
	f.wantContent(treeOf(commit2, secondState(commit1)))
}

func TestSecondReplaceAtOnceIsRefused(t *testing.T) {
	f := newFixture(t, disks.New(t, disks.Ext4, 0).Dir)
	archive := bytes.NewReader(archiveOf(t, site()...))
	var second error
	meanwhile := readerFunc(func(p []byte) (int, error) {
		if second == nil {
			second = f.Replace(t.Context(), commit2, "", plenty, bytes.NewReader(nil))
		}
		return archive.Read(p)
	})
	must(t, f.Replace(t.Context(), commit1, "", plenty, meanwhile))
	if !errors.Is(second, volume.ErrBusy) {
		t.Errorf("%v, want volume.ErrBusy", second)
	}
	f.wantContent(treeOf(commit1, siteState()))
}
