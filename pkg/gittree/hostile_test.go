package gittree

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// headers writes an archive of headers as they are. What a header cannot have, the writer refuses.
func headers(t testing.TB, all ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range all {
		must(t, w.WriteHeader(&h))
		_, err := w.Write(make([]byte, h.Size))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func deep(n int) (items []item) {
	path := ""
	for range n {
		path += "d/"
		items = append(items, item{name: path})
	}
	return items
}

// hostile is an archive that is refused, and a part of the error.
type hostile struct {
	what    string
	archive []byte
	err     error
	text    string
}

func hostileArchives(t testing.TB) []hostile {
	t.Helper()
	of := func(items ...item) []byte { return archiveOf(t, items...) }
	wrong := volume.ErrPrecondition
	all := []hostile{
		{"a second file", of(item{name: "a"}, item{name: "a"}), wrong, `"a" a second entry`},
		{"a file, then a directory", of(item{name: "a"}, item{name: "a/"}), wrong, `"a" a second entry`},
		{"a directory twice", of(item{name: "a/"}, item{name: "a/"}), wrong, "a second entry"},
		{"a file on a link", of(item{name: "a", link: "b"}, item{name: "a"}), wrong, "a second entry"},
		{
			"a file through a link", of(item{name: "d/"}, item{name: "a", link: "d"}, item{name: "a/b"}),
			wrong, "the directory first",
		},
		{"a file in a file", of(item{name: "a"}, item{name: "a/b"}), wrong, "the directory first"},
		{"a file without its directory", of(item{name: "a/b"}), wrong, `"a/b" an entry whose directory`},
		{"a link out", of(item{name: "a", link: "../b"}), wrong, "leads out"},
		{"a link out, deeper", of(item{name: "d/"}, item{name: "d/a", link: "../../b"}), wrong, "leads out"},
		{"a link out after a dot", of(item{name: "a", link: "./../b"}), wrong, "leads out"},
		{"a link up after down", of(item{name: "a", link: "b/../../c"}), wrong, `".." only at its start`},
		{"a link up after down, inside", of(item{name: "a", link: "b/.."}), wrong, `".." only at its start`},
		{"an absolute link", of(item{name: "a", link: "/etc/shadow"}), wrong, "absolute"},
		{"a link of 4096 bytes", of(item{name: "a", link: strings.Repeat("b", 4096)}), wrong, "4095"},
		{"a file of the base without one", of(item{name: "a", base: "index.html"}), wrong, "although there is none"},
		{"a path of 5000 bytes", of(item{name: strings.Repeat("d/", 2500)}), wrong, "4095 bytes"},
		{"257 directories and one more", of(deep(258)...), wrong, "256 directories"},
		{"a header without an end", of(item{name: "a", link: strings.Repeat("b", 900<<10)}), wrong, "32 KiB"},
		{"a FIFO", headers(t, tar.Header{Typeflag: tar.TypeFifo, Name: "a"}), wrong, "no file, directory or link"},
		{"a device", headers(t, tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1}), wrong, "no file"},
		{"a disk", headers(t, tar.Header{Typeflag: tar.TypeBlock, Name: "a", Devmajor: 8}), wrong, "no file"},
		{"a contiguous file", headers(t, tar.Header{Typeflag: tar.TypeCont, Name: "a"}), wrong, "no file"},
		{
			"a global header",
			headers(t, tar.Header{
				Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "a"},
			}),
			wrong, "",
		},
		{
			"an extended attribute",
			headers(t, tar.Header{
				Typeflag: tar.TypeReg, Name: "a", Mode: modeFile,
				PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "x"},
			}),
			wrong, "another format",
		},
		{
			"a GNU header",
			headers(t, tar.Header{
				Typeflag: tar.TypeReg, Name: strings.Repeat("a", 200), Mode: modeFile, Format: tar.FormatGNU,
			}),
			wrong, "another format",
		},
		{"setuid", headers(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o4755}), wrong, "a mode"},
		{"writable by all", headers(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o666}), wrong, "a mode"},
		{"noise", bytes.Repeat([]byte("noise"), 1000), wrong, "damaged"},
		{"an empty stream", nil, io.ErrUnexpectedEOF, ""},
		{"no end", of(site()...)[:512], io.ErrUnexpectedEOF, ""},
		{"a block less", func() []byte { a := of(site()...); return a[:len(a)-512] }(), io.ErrUnexpectedEOF, ""},
		{"half a file", of(item{name: "a", content: strings.Repeat("x", 900)})[:1000], io.ErrUnexpectedEOF, ""},
		{"a sparse file", sparse(t), wrong, "another format"},
		{
			"too many bytes",
			of(item{name: "a", content: strings.Repeat("x", smallBytes)}, item{name: "b", content: "x"}),
			volume.ErrNoSpace, "1000 bytes",
		},
		{"too many entries", of(many(smallEntries + 1)...), volume.ErrTooMany, "300"},
		{"a size of 8 EiB", headerOfSize(t, 1<<62), volume.ErrNoSpace, "1000 bytes"},
	}
	for _, name := range []string{
		"", "..", "../a", "a/../b", "/a", "//a", "a//b", "./a", "a/", ".", "a/.", "a/..", ".git", ".GIT",
		".git/", ".git/config", "a/.git/hooks/x", "git~1", "GIT~1", ".git.", ".git ", ".git . ", ".git::$INDEX",
		".g\u200cit", "\u200d.git", ".git\ufeff", ".gi\u206ft", strings.Repeat("n", 256),
	} {
		h := item{name: "x"}.header()
		h.Name = name
		all = append(all, hostile{"the name " + volume.Clip(name, 20), rawHeader(t, *h, name), wrong, ""})
	}
	for _, base := range []string{
		"", "..", "/etc/passwd", "../../data/secret", "absent", "css", "css/deep/up", "here/site.css",
		".git/x",
	} {
		h := tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: base, Mode: modeFile}
		all = append(all, hostile{"the base's " + base, headers(t, h), wrong, ""})
	}
	return all
}

const (
	smallBytes   = 1000
	smallEntries = 300
)

var small = gitwire.Limits{TreeBytes: smallBytes, Entries: smallEntries}

func many(n int) (items []item) {
	for i := range n {
		items = append(items, item{name: strings.Repeat("a", 1+i%200) + string(rune('A'+i/200))})
	}
	return items
}

// rawHeader writes a name that the writer would change, in the header's own field if there is room.
func rawHeader(t testing.TB, h tar.Header, name string) []byte {
	t.Helper()
	if len(name) > 100 {
		return headers(t, h)
	}
	h.Name = "x"
	block := headers(t, h)
	clear(block[:100])
	copy(block, name)
	return checksummed(block)
}

// checksummed mends the checksum of the first header.
func checksummed(block []byte) []byte {
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block[:512] {
		sum += int(b)
	}
	const digits = "01234567"
	for i := 153; i >= 148; i-- {
		block[i] = digits[sum%8]
		sum /= 8
	}
	block[154] = 0
	return block
}

// sparse is a file of 1 TiB in two blocks, as GNU tar writes it in a pax header.
func sparse(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	record := func(h tar.Header, content string) {
		w := tar.NewWriter(&b)
		h.Size = int64(len(content))
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		must(t, err)
		must(t, w.Flush())
	}
	pax := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n37 GNU.sparse.realsize=1099511627776\n" +
		"21 GNU.sparse.name=a\n"
	record(tar.Header{Typeflag: tar.TypeReg, Name: "x"}, pax)
	b.Bytes()[156] = tar.TypeXHeader
	checksummed(b.Bytes())
	record(tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: modeFile},
		"0\n"+strings.Repeat("\x00", 510))
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func headerOfSize(t testing.TB, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: modeFile, Size: size}))
	return b.Bytes()
}

func TestHostileArchiveIsRefusedAndChangesNothing(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 0).Dir
	f := newFixture(t, disk)
	f.replace(commit1, "", site()...)
	must(t, os.WriteFile(filepath.Join(f.data, "secret"), nil, 0o600))
	before := state(t, disk)
	for _, tt := range hostileArchives(t) {
		t.Run(tt.what, func(t *testing.T) {
			base := ""
			if strings.HasPrefix(tt.what, "the base's") {
				base = commit1
			}
			err := f.Replace(t.Context(), commit2, base, small, bytes.NewReader(tt.archive))
			if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, want %v, and %q", err, tt.err, tt.text)
			} else if text := err.Error(); len(text) > 600 || !utf8.ValidString(text) {
				t.Errorf("the error has %d bytes: %q", len(text), text)
			}
			if after := state(t, disk); !maps.Equal(after, before) {
				t.Errorf("the disk has\n%q, want\n%q", after, before)
			}
		})
	}
	if f.Commit() != commit1 {
		t.Errorf("the commit is %s", f.Commit())
	}
}

func TestWrongCommitsAreRefused(t *testing.T) {
	f := newFixture(t, disks.New(t, disks.Ext4, 0).Dir)
	archive := archiveOf(t, site()...)
	f.replace(commit1, "", site()...)
	for _, tt := range []struct{ commit, base string }{
		{"", ""},
		{"HEAD", ""},
		{commit2 + "2", ""},
		{strings.Repeat("A", commitDigits), ""},
		{commit2, commit2},
		{commit2, "x"},
	} {
		err := f.Replace(t.Context(), tt.commit, tt.base, plenty, bytes.NewReader(archive))
		if !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("%q, based on %q: %v, want volume.ErrPrecondition", tt.commit, tt.base, err)
		}
	}
	f.wantContent(treeOf(commit1, siteState()))
	f.wantBuilding()
}

func TestStrangeButHarmlessNamesAreWritten(t *testing.T) {
	onEach(t, func(f *fixture) {
		names := []string{
			"...", "..a", "a b", " ", "-rf", "new\nline", "\x01", "\xff\xfe", "é", "e\u0301", "A", "a", ".gitignore",
			".gitmodules", "git", "git~2", "x.git", ".github", "..git", "con", "a:b", "\\", strings.Repeat("n", 255),
		}
		var items []item
		want := map[string]string{}
		for _, name := range names {
			items = append(items, item{name: name, content: name})
			want[name] = "-rw-r--r-- " + name
		}
		f.replace(commit1, "", items...)
		f.wantContent(treeOf(commit1, want))
	})
}

// FuzzArchiveStaysInItsTree changes archives at will. Whatever becomes of them, pods see the old
// tree or a new one in which everything is as promised.
func FuzzArchiveStaysInItsTree(f *testing.F) {
	for _, h := range hostileArchives(f) {
		if len(h.archive) < 64<<10 {
			f.Add(h.archive, strings.HasPrefix(h.what, "the base's"))
		}
	}
	f.Add(archiveOf(f, site()...), false)
	f.Add(archiveOf(f, item{name: "a", base: "index.html"}, item{name: "b", base: "css/zz"}), true)
	disks.RequireRoot(f)
	disk := f.TempDir() // each process of the fuzzer has its own
	must(f, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"))
	f.Cleanup(func() { must(f, unix.Unmount(disk, unix.MNT_DETACH)) })
	f.Fuzz(func(t *testing.T, archive []byte, based bool) {
		dir, err := os.MkdirTemp(disk, "") //nolint:usetesting // on that filesystem
		must(t, err)
		defer func() { must(t, os.RemoveAll(dir)) }()
		c := newFixture(t, dir)
		must(t, os.WriteFile(filepath.Join(dir, "outside"), []byte("outside"), 0o600))
		c.replace(commit1, "", site()...)
		base := ""
		if based {
			base = commit1
		}
		limits := gitwire.Limits{TreeBytes: 1 << 20, Entries: 500}
		err = c.Replace(t.Context(), commit2, base, limits, bytes.NewReader(archive))
		if err != nil {
			c.wantContent(treeOf(commit1, siteState()))
			c.wantBuilding()
			return
		}
		checkTree(t, filepath.Join(c.data, contentDir, repo), limits)
		c.wantBuilding(oldPrefix)
		if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
			t.Errorf("beside the volume: %v, %v", names, err)
		}
	})
}

// checkTree checks what holds in each tree, whatever archive it came from.
func checkTree(t *testing.T, tree string, limits gitwire.Limits) {
	t.Helper()
	root, err := openat.OpenDir(tree)
	must(t, err)
	defer root.Close()
	entries, size := int64(0), int64(0)
	must(t, filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		entries++
		switch mode := info.Mode(); mode {
		case fs.ModeDir | modeDir:
		case modeFile, modeProgram:
			size += info.Size()
		case fs.ModeSymlink | 0o777:
			checkLink(t, root, strings.TrimPrefix(path, tree+"/"))
		default:
			t.Errorf("%q has mode %v", path, mode)
		}
		if checkDir(strings.TrimPrefix(path, tree+"/")) != nil {
			t.Errorf("%q has a forbidden name", path)
		}
		return nil
	}))
	if entries > limits.Entries || size > limits.TreeBytes {
		t.Errorf("the tree has %d entries with %d bytes, the limits are %+v", entries, size, limits)
	}
}

// checkLink follows a link. os.Root has another error for one that leaves the tree.
func checkLink(t *testing.T, root openat.Dir, path string) {
	t.Helper()
	tree, err := os.OpenRoot(openat.Path(root.File))
	must(t, err)
	defer tree.Close()
	_, err = tree.Stat(path)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR),
		errors.Is(err, unix.ENAMETOOLONG):
	default:
		t.Errorf("the link %q: %v", path, err)
	}
}
