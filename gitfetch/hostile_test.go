package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/csi-hostpath/csi-hostpath/pkg/gittree"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// served is what a server says of a repository. Nothing in it need be true.
type served struct {
	refs []string // "HASH NAME"; the first one also has the capabilities
	pack []byte
}

func pkt(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

const (
	service      = "001e# service=git-upload-pack\n0000"
	capabilities = "ofs-delta agent=hostile/1"
	flush        = "0000"
	nak          = "0008NAK\n"
)

// head is a repository with one ref.
func head(commit plumbing.Hash, pack []byte) served {
	return served{refs: []string{commit.String() + " HEAD"}, pack: pack}
}

func (s served) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if strings.HasSuffix(q.URL.Path, "/git-upload-pack") {
		_, _ = w.Write(append([]byte(nak), s.pack...))
		return
	}
	var b strings.Builder
	b.WriteString(service)
	for i, ref := range s.refs {
		if i == 0 {
			ref += "\x00" + capabilities
		}
		b.WriteString(pkt(ref + "\n"))
	}
	_, _ = w.Write([]byte(b.String() + flush))
}

// rig has a fetcher with one place, as its program, a server of hostile repositories and a good
// one.
type rig struct {
	socket string
	server *httptest.Server
	mux    *http.ServeMux
	good   served
	commit plumbing.Hash // of the good repository
}

func newRig(t testing.TB) *rig {
	t.Helper()
	o := testOptions(t.TempDir())
	o.memory = 128 << 20
	r := &rig{socket: startFetcher(t, o), mux: http.NewServeMux()}
	r.server = httptest.NewTLSServer(r.mux)
	t.Cleanup(r.server.Close)
	var p pack
	r.commit = p.commit(p.tree(item{"100644", "file", p.blob("good")}))
	r.good = head(r.commit, p.bytes())
	r.mux.Handle("/good/", r.good)
	return r
}

func (r *rig) request(path string) gitwire.Request {
	return gitwire.Request{
		URL: r.server.URL + path, Depth: 1,
		Addresses:   []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Credentials: gitwire.Credentials{Authorities: certificateOf(r.server)},
		Limits: gitwire.Limits{
			PackBytes: 8 << 20, Objects: 100_000, TreeBytes: 64 << 20, Entries: 10_000, Time: time.Minute,
		},
	}
}

// fetch has the driver's code write the tree, and returns where.
func (r *rig) fetch(t *testing.T, q gitwire.Request) (dir string, err error) {
	t.Helper()
	f, err := gitwire.Fetch(t.Context(), r.socket, q)
	if err != nil {
		return "", err
	}
	defer f.Close()
	//nolint:usetesting // in memory: Replace syncs the filesystem
	dir, err = os.MkdirTemp("/dev/shm", "gitfetch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	data, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	content, err := gittree.Open(data, "site", gittree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = content.Replace(t.Context(), f.Answer.Commit, "", q.Limits, f.Archive)
	return dir, errors.Join(err, content.Close())
}

// wantServing: the fetcher goes on serving.
func (r *rig) wantServing(t *testing.T) {
	t.Helper()
	f, err := gitwire.Fetch(t.Context(), r.socket, r.request("/good"))
	if err != nil || f.Answer.Commit != r.commit.String() {
		t.Fatalf("after that, a good repository: %v", err)
	}
	f.Close()
}

// wantFault: the error has that fault, and a text that people can read.
func wantFault(t *testing.T, err error, fault gitwire.Fault, text string) {
	t.Helper()
	known, ok := errors.AsType[*gitwire.Error](err)
	if !ok || known.Fault != fault || !strings.Contains(known.Message, text) {
		t.Errorf("the error is %v, want %s and %q", err, fault, text)
	}
}

// written lists what a tree has: paths, links with their targets, programs with a star.
func written(t *testing.T, dir string) string {
	t.Helper()
	root := filepath.Join(dir, "content", "site")
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			name += "/"
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			name += "->" + target
		case info.Mode() == 0o755:
			name += "*"
		case info.Mode() != 0o644:
			name += info.Mode().String()
		}
		found = append(found, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}

// What a tree must not have is refused by the fetcher, or by the driver, which trusts no fetcher.
// What is strange only is written as it is.
func TestHostileTrees(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("n", 256)
	for i, tt := range []struct {
		what  string
		items items
		// One of the three: what is written, the fault of the fetcher, what the driver says.
		want   string
		fault  gitwire.Fault
		driver string
	}{
		{what: "a good tree", items: goodTree, want: "a b* d/ d/a l->d/a"},
		{what: ".git", items: dir(".git"), driver: ".git"},
		{what: ".git as a file", items: files(".git"), driver: ".git"},
		{what: ".git as a link", items: links(".git", "d"), driver: ".git"},
		{what: ".git below", items: below(".git"), driver: ".git"},
		{what: ".GIT", items: dir(".GIT"), driver: ".git"},
		{what: ".gIt below", items: below(".gIt"), driver: ".git"},
		{what: "git~1", items: dir("git~1"), driver: ".git"},
		{what: "GIT~1", items: files("GIT~1"), driver: ".git"},
		{what: ".git with dots and spaces", items: dir(".git. . ."), driver: ".git"},
		{what: ".git with a stream", items: files(".git::$INDEX_ALLOCATION"), driver: ".git"},
		{what: ".git for HFS+", items: dir(".g\u200cit"), driver: ".git"},
		{what: ".git with a byte order mark", items: dir("\ufeff.git"), driver: ".git"},
		{what: "..", items: files(".."), fault: gitwire.Malformed},
		{what: ".. as a directory", items: dir(".."), fault: gitwire.Malformed},
		{what: ".. below", items: below(".."), fault: gitwire.Malformed},
		{what: ".", items: dir("."), fault: gitwire.Malformed},
		{what: "no name", items: files(""), fault: gitwire.Malformed},
		{what: "a path", items: files("a/b"), fault: gitwire.Malformed},
		{what: "a path upwards", items: files("../../etc/passwd"), fault: gitwire.Malformed},
		{what: "an absolute path", items: files("/etc/passwd"), fault: gitwire.Malformed},
		{what: "a name of 256 bytes", items: files(long), driver: "1 to 255 bytes"},
		{what: "a file twice", items: files("a", "a"), driver: "a second entry"},
		{what: "a file and a directory", items: both("100644"), driver: "a second entry"},
		{what: "a link and a directory", items: both("120000"), driver: "a second entry"},
		{what: "a directory twice", items: both("40000"), driver: "a second entry"},
		// Linux tells them apart, and so does git.
		{what: "twins by case", items: files("A", "a"), want: "A a"},
		{what: "twins by Unicode", items: files("e\u0301", "\u00e9"), want: "e\u0301 \u00e9"},
		{what: "names that are no UTF-8", items: files("\n", "\xff", "\xff\xfe"), want: "\n \xff \xff\xfe"},
		{what: "names of options", items: files("--help", "-rf"), want: "--help -rf"},
		{what: "no order", items: files("b", "a"), want: "a b"},
		{what: ".gitmodules as a link", items: links(".gitmodules", "a"), want: ".gitmodules->a"},
		{what: "a link to /etc", items: links("l", "/etc/passwd"), driver: "absolute"},
		{what: "a link out", items: links("l", "../x"), driver: "leads out"},
		{what: "a link out through another", items: links("a", ".", "b", "a/../.."), driver: "only at its start"},
		{what: "links in a ring", items: links("a", "b", "b", "c", "c", "a"), want: "a->b b->c c->a"},
		{what: "a link to nothing", items: links("l", ""), fault: gitwire.Malformed},
		{what: "a link with a NUL", items: links("l", "a\x00b"), fault: gitwire.Malformed},
		{what: "a link of 4096 bytes", items: links("l", strings.Repeat("a", 4096)), fault: gitwire.Malformed},
		{what: "a link that is a directory", items: emptyDir("120000"), fault: gitwire.Malformed},
		{what: "a file that is a directory", items: emptyDir("100644"), fault: gitwire.Malformed},
		{what: "an empty directory", items: emptyDir("40000"), want: "a/"},
		{what: "a directory that is a file", items: modes("40000"), fault: gitwire.Malformed},
		{what: "a directory that is missing", items: missing("40000"), fault: gitwire.Malformed},
		{what: "a file that is missing", items: missing("100644"), fault: gitwire.Malformed},
		{what: "a link that is missing", items: missing("120000"), fault: gitwire.Malformed},
		{what: "modes with more bits", items: modes("102666", "104777", "0100755"), want: "a b* c*"},
		// git takes a mode that it does not know for a submodule's, too (canon_mode).
		{what: "a submodule", items: modes("100644", "160000"), want: "a"},
		{
			what:  "modes of no file",
			items: modes("100644", "0", "177777", "20666", "60660", "10644", "140755"), want: "a",
		},
		{what: "a mode that is no number", items: modes("rwx"), fault: gitwire.Malformed},
		{what: "a mode that is too large", items: modes(strings.Repeat("7", 40)), fault: gitwire.Malformed},
	} {
		t.Run(tt.what, func(t *testing.T) {
			var p pack
			commit := p.commit(p.tree(tt.items(&p, p.blob("content"))...))
			path := fmt.Sprintf("/tree%d", i)
			r.mux.Handle(path+"/", head(commit, p.bytes()))
			dir, err := r.fetch(t, r.request(path))
			switch {
			case tt.fault != "":
				wantFault(t, err, tt.fault, "")
			case tt.driver != "":
				if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), tt.driver) {
					t.Errorf("the driver says %v, want %q", err, tt.driver)
				}
			case err != nil:
				t.Errorf("the error is %v", err)
			default:
				if got := written(t, dir); got != tt.want {
					t.Errorf("the tree is %q, want %q", got, tt.want)
				}
			}
		})
	}
	r.wantServing(t)
}

// items are a tree's, one of which may be the file that a pack has.
type items = func(p *pack, file plumbing.Hash) []item

func goodTree(p *pack, file plumbing.Hash) []item {
	a := item{"100644", "a", file}
	return []item{a, {"100755", "b", file}, {"40000", "d", p.tree(a)}, {"120000", "l", p.blob("d/a")}}
}

func files(names ...string) items {
	return func(_ *pack, file plumbing.Hash) (found []item) {
		for _, name := range names {
			found = append(found, item{"100644", name, file})
		}
		return found
	}
}

// modes has files "a", "b" and so on.
func modes(modes ...string) items {
	return func(_ *pack, file plumbing.Hash) (found []item) {
		for i, mode := range modes {
			found = append(found, item{mode, string(rune('a' + i)), file})
		}
		return found
	}
}

// links has pairs of a name and a target.
func links(pairs ...string) items {
	return func(p *pack, _ plumbing.Hash) (found []item) {
		for pair := range slices.Chunk(pairs, 2) {
			found = append(found, item{"120000", pair[0], p.blob(pair[1])})
		}
		return found
	}
}

func emptyDir(mode string) items {
	return func(p *pack, _ plumbing.Hash) []item { return []item{{mode, "a", p.tree()}} }
}

func missing(mode string) items {
	return func(*pack, plumbing.Hash) []item {
		return []item{{mode, "a", plumbing.NewHash(strings.Repeat("1", 40))}}
	}
}

func dir(name string) items {
	return func(p *pack, f plumbing.Hash) []item {
		return []item{{"40000", name, p.tree(item{"100644", "config", f})}}
	}
}

func below(name string) items {
	return func(p *pack, f plumbing.Hash) []item {
		return []item{{"40000", "d", p.tree(dir(name)(p, f)...)}}
	}
}

// both has an entry, and a directory of the same name after it.
func both(mode string) items {
	return func(p *pack, f plumbing.Hash) []item {
		d := p.tree(item{"100644", "passwd", f})
		entries := map[string]item{
			"100644": {mode, "a", f}, "120000": {mode, "a", p.blob("d")}, "40000": {mode, "a", d},
		}
		return []item{entries[mode], {"40000", "a", d}, {"40000", "d", d}}
	}
}

// A server that only this pod's ca.crt proves knows the commit of another pod's repository, and has
// nothing of it.
func TestAnotherServerOpensNothingOfTheCache(t *testing.T) {
	r := newRig(t)
	var now atomic.Pointer[served]
	now.Store(&r.good)
	r.mux.HandleFunc("/private/", func(w http.ResponseWriter, q *http.Request) {
		now.Load().ServeHTTP(w, q)
	})
	cache, q := t.TempDir(), r.request("/private")
	q.Version = gitwire.Version
	if a, _, _ := ask(t, cache, q); a.Commit != r.commit.String() {
		t.Fatalf("%+v", a)
	}
	other := head(r.commit, nil)
	now.Store(&other)
	if a, _, _ := ask(t, cache, q); a.Commit != r.commit.String() {
		t.Errorf("the server itself: %+v", a)
	}
	q.Credentials.Authorities += "\n"
	if a, _, _ := ask(t, cache, q); a.Fault == "" {
		t.Errorf("another server: %+v", a)
	}
}
