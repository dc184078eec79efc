package gittree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

const repo = "website"

var (
	signal  = strings.Repeat("s", maxName) // as long as a name can be
	commit1 = strings.Repeat("1", commitDigits)
	commit2 = strings.Repeat("2", commitDigits)
	plenty  = gitwire.Limits{TreeBytes: 1 << 30, Entries: 100_000}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// item is an entry of a test's archive. Its type follows from its fields: a name that ends in a
// slash is a directory.
type item struct {
	name, content string
	link          string // the target of a symbolic link
	base          string // a file of the base
	program       bool
}

func (i item) header() *tar.Header {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: i.name, Mode: modeFile, Size: int64(len(i.content))}
	switch {
	case strings.HasSuffix(i.name, "/"):
		h.Typeflag, h.Mode = tar.TypeDir, modeDir
	case i.link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, i.link
	case i.base != "":
		h.Typeflag, h.Linkname = tar.TypeLink, i.base
	case i.program:
		h.Mode = modeProgram
	}
	return h
}

// archiveOf writes an archive as a fetcher does.
func archiveOf(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		must(t, w.WriteHeader(i.header()))
		_, err := io.WriteString(w, i.content)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// fixture is a content in a volume's data.
type fixture struct {
	*Content
	t    testing.TB
	data string
}

func openContent(t testing.TB, data string) *Content {
	t.Helper()
	d, err := os.Open(data)
	must(t, err)
	defer d.Close()
	c, err := Open(d, repo, Options{SignalFile: signal})
	must(t, err)
	return c
}

// newFixture has the volume's data in a directory of the disk.
func newFixture(t testing.TB, disk string) *fixture {
	t.Helper()
	data := filepath.Join(disk, "data")
	must(t, os.Mkdir(data, 0o750))
	f := &fixture{openContent(t, data), t, data}
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

func onEach(t *testing.T, test func(f *fixture)) {
	t.Helper()
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			test(newFixture(t, disks.New(t, fstype, 0).Dir))
		})
	}
}

func (f *fixture) replace(commit, base string, items ...item) {
	f.t.Helper()
	archive := bytes.NewReader(archiveOf(f.t, items...))
	must(f.t, f.Replace(f.t.Context(), commit, base, plenty, archive))
}

func (f *fixture) reopen() {
	f.t.Helper()
	must(f.t, f.Close())
	f.Content = openContent(f.t, f.data)
}

// state describes what is below a directory: for each path the type, the mode, and the content.
func state(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var content []byte
		switch info.Mode().Type() {
		case 0:
			content, err = os.ReadFile(path) //nolint:gosec // nobody exchanges it
		case fs.ModeSymlink:
			var target string
			target, err = os.Readlink(path)
			content = []byte(target)
		default: // has no content
		}
		found[strings.TrimPrefix(path, dir+"/")] = info.Mode().String() + " " + string(content)
		return err
	}))
	return found
}

func (f *fixture) wantContent(want map[string]string) {
	f.t.Helper()
	if got := state(f.t, filepath.Join(f.data, contentDir)); !maps.Equal(got, want) {
		f.t.Errorf("pods see\n%q, want\n%q", got, want)
	}
}

// wantBuilding wants so many entries in the directory building whose names begin so.
func (f *fixture) wantBuilding(prefixes ...string) {
	f.t.Helper()
	names, err := f.listBuilding()
	must(f.t, err)
	slices.Sort(names)
	if !slices.EqualFunc(names, prefixes, strings.HasPrefix) {
		f.t.Errorf("building has %q, want %q", names, prefixes)
	}
}

func treeOf(commit string, files map[string]string) map[string]string {
	want := map[string]string{
		repo: "drwxr-xr-x ", CommitFile: "-rw-r--r-- " + commit + "\n", signal: "-rw-r--r-- " + commit + "\n",
	}
	for path, file := range files {
		want[repo+"/"+path] = file
	}
	return want
}

func site() []item {
	return []item{
		{name: "index.html", content: "first"},
		{name: "css/"},
		{name: "css/site.css", content: "css"},
		{name: "css/deep/"},
		{name: "css/deep/up", link: "../../index.html"},
		{name: "css/zz", content: "after"},
		{name: "run", content: "#!/bin/sh\n", program: true},
		{name: "empty"},
		{name: "here", link: "./css"},
	}
}

func siteState() map[string]string {
	return map[string]string{
		"index.html": "-rw-r--r-- first", "css": "drwxr-xr-x ", "css/site.css": "-rw-r--r-- css",
		"css/deep": "drwxr-xr-x ", "css/deep/up": "Lrwxrwxrwx ../../index.html",
		"css/zz": "-rw-r--r-- after", "run": "-rwxr-xr-x #!/bin/sh\n", "empty": "-rw-r--r-- ",
		"here": "Lrwxrwxrwx ./css",
	}
}

func TestTreeIsWhatTheArchiveHasAndTheNextOneTakesItsPlace(t *testing.T) {
	onEach(t, func(f *fixture) {
		t := f.t
		f.wantContent(map[string]string{})
		f.replace(commit1, "", site()...)
		if f.Commit() != commit1 {
			t.Errorf("the commit is %q", f.Commit())
		}
		f.wantContent(treeOf(commit1, siteState()))
		f.wantBuilding()
		f.reopen()
		f.wantContent(treeOf(commit1, siteState()))
		if f.Commit() != commit1 {
			t.Errorf("after Open the commit is %q", f.Commit())
		}
		f.replace(commit2, "", item{name: "index.html", content: "second"})
		f.wantContent(treeOf(commit2, map[string]string{"index.html": "-rw-r--r-- second"}))
		f.wantBuilding(oldPrefix)
		must(t, f.RemoveOld(t.Context(), time.Now()))
		f.wantBuilding(oldPrefix)
		must(t, f.RemoveOld(t.Context(), time.Now().Add(DefaultGrace+time.Second)))
		f.wantBuilding()
	})
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Ino
}

func TestUnchangedFileIsTheSameFile(t *testing.T) {
	onEach(t, func(f *fixture) {
		t := f.t
		f.replace(commit1, "", item{name: "a/"}, item{name: "a/same", content: "same"},
			item{name: "a/program", content: "x", program: true}, item{name: "changed", content: "old"})
		tree := filepath.Join(f.data, contentDir, repo)
		same, program := inode(t, tree+"/a/same"), inode(t, tree+"/a/program")
		f.replace(commit2, commit1, item{name: "b/"}, item{name: "b/moved", base: "a/same"},
			item{name: "b/twin", base: "a/same"}, item{name: "b/program", base: "a/program"},
			item{name: "changed", content: "new"})
		f.wantContent(treeOf(commit2, map[string]string{
			"b": "drwxr-xr-x ", "b/moved": "-rw-r--r-- same", "b/twin": "-rw-r--r-- same",
			"b/program": "-rwxr-xr-x x", "changed": "-rw-r--r-- new",
		}))
		for path, want := range map[string]uint64{"b/moved": same, "b/twin": same, "b/program": program} {
			if got := inode(t, filepath.Join(tree, path)); got != want {
				t.Errorf("%s has inode %d, want %d", path, got, want)
			}
		}
	})
}

// An ext4 file has at most 65,000 names.
func TestFileOfTooManyNamesIsCopied(t *testing.T) {
	const names = 65_100
	f := newFixture(t, disks.New(t, disks.Ext4, 0, disks.MkfsArgs("-N", "10000")).Dir)
	f.replace(commit1, "", item{name: "a", content: "content", program: true})
	items := make([]item, names)
	for i := range items {
		items[i] = item{name: "b" + time.Duration(i).String(), base: "a"}
	}
	f.replace(commit2, commit1, items...)
	inodes := map[uint64]int{}
	for path, file := range state(t, filepath.Join(f.data, contentDir, repo)) {
		if file != "-rwxr-xr-x content" {
			t.Fatalf("%s is %s", path, file)
		}
		inodes[inode(t, filepath.Join(f.data, contentDir, repo, path))]++
	}
	if len(inodes) < 2 {
		t.Errorf("%d inodes: the test shows nothing", len(inodes))
	}
}

func TestOpenNamesWhatItRefuses(t *testing.T) {
	disks.RequireRoot(t)
	data, err := os.Open(t.TempDir())
	must(t, err)
	defer data.Close()
	for _, tt := range []struct{ name, signal string }{
		{"", ""},
		{".", ""},
		{"..", ""},
		{"a/b", ""},
		{".git", ""},
		{CommitFile, ""},
		{"a", "a"},
		{"a", "../b"},
		{"a", CommitFile},
		{strings.Repeat("a", 256), ""},
	} {
		if c, err := Open(data, tt.name, Options{SignalFile: tt.signal}); err == nil {
			must(t, c.Close())
			t.Errorf("%q, %q was opened", tt.name, tt.signal)
		}
	}
}

func TestContextEndsAReplaceAndNothingIsLeft(t *testing.T) {
	onEach(t, func(f *fixture) {
		t := f.t
		f.replace(commit1, "", site()...)
		ctx, cancel := context.WithCancel(t.Context())
		archive := bytes.NewReader(archiveOf(t, item{name: "a", content: strings.Repeat("x", 1<<20)}))
		half := io.MultiReader(io.LimitReader(archive, 600<<10), readerFunc(func(p []byte) (int, error) {
			cancel()
			return archive.Read(p)
		}))
		if err := f.Replace(ctx, commit2, "", plenty, half); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}
		f.wantContent(treeOf(commit1, siteState()))
		f.wantBuilding()
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestModesAreExactWhateverTheUmaskAndTheVolumesGroup(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 0).Dir
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	data := filepath.Join(disk, "data")
	must(t, os.Mkdir(data, 0o700))
	must(t, os.Chown(data, 1000, 1000))
	must(t, os.Chmod(data, fs.ModeSetgid|0o770))
	disks.SetDefaultACL(t, data)
	f := &fixture{openContent(t, data), t, data}
	defer func() { must(t, f.Close()) }()
	f.replace(commit1, "", site()...)
	f.wantContent(treeOf(commit1, siteState()))
	for path := range state(t, filepath.Join(data, contentDir)) {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(data, contentDir, path), &st))
		if st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s is of %d:%d", path, st.Uid, st.Gid)
		}
	}
}

func TestDirIsTheDirectoryThatPodsSee(t *testing.T) {
	onEach(t, func(f *fixture) {
		t := f.t
		f.replace(commit1, "", site()...)
		dir, err := f.Dir()
		must(t, err)
		defer dir.Close()
		content, err := os.ReadFile(openat.Path(dir) + "/" + repo + "/index.html")
		if err != nil || string(content) != "first" {
			t.Errorf("%q, %v", content, err)
		}
	})
}
