package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// repository is a real repository behind a real server: git http-backend over HTTPS.
type repository struct {
	t      *testing.T
	dir    string // a work tree
	server *httptest.Server
	// password is what the server wants; empty: nothing.
	password string
}

func newRepository(t *testing.T) *repository {
	t.Helper()
	r := &repository{t: t, dir: filepath.Join(t.TempDir(), "site")}
	r.git("init", "--quiet", "--initial-branch=main", r.dir)
	backend := &cgi.Handler{
		Path: "/usr/lib/git-core/git-http-backend",
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(r.dir), "GIT_HTTP_EXPORT_ALL=1"},
	}
	r.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if _, password, _ := q.BasicAuth(); password != r.password {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, q)
	}))
	t.Cleanup(r.server.Close)
	return r
}

func (r *repository) git(args ...string) string {
	r.t.Helper()
	return r.gitIn(nil, args...)
}

// gitIn runs git with that input.
func (r *repository) gitIn(in []byte, args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	if _, err := os.Stat(r.dir); err == nil {
		cmd.Dir = r.dir
	}
	cmd.Stdin = bytes.NewReader(in)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a",
		"GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files and returns the commit's hash.
func (r *repository) commit(files map[string]string) string {
	r.t.Helper()
	for name, content := range files {
		path := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "--all")
	r.git("commit", "--quiet", "--allow-empty", "-m", "x")
	return r.git("rev-parse", "HEAD")
}

func certificateOf(server *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE", Bytes: server.Certificate().Raw,
	}))
}

func (r *repository) request() gitwire.Request {
	return gitwire.Request{
		Version:   gitwire.Version,
		URL:       r.server.URL + "/site/.git",
		Depth:     1,
		Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Credentials: gitwire.Credentials{
			Authorities: certificateOf(r.server), Password: r.password,
		},
		Limits: gitwire.Limits{
			PackBytes: 64 << 20, Objects: 100_000, TreeBytes: 64 << 20, Entries: 50_000,
			Time: 2 * time.Minute,
		},
	}
}

func testOptions(cache string) options {
	return options{cache: cache, cacheBytes: 1 << 30, jobs: 1, memory: 1 << 30, abandon: func() {}}
}

// args are the options as flags.
func (o *options) args() []string {
	return []string{
		"--cache=" + o.cache, fmt.Sprintf("--cache-bytes=%d", o.cacheBytes),
		fmt.Sprintf("--jobs=%d", o.jobs), fmt.Sprintf("--memory=%d", o.memory),
	}
}

// ask lets handle answer a request over a socket, as a process would.
func ask(t *testing.T, cache string, r gitwire.Request) (gitwire.Answer, []tar.Header, string) {
	t.Helper()
	pair := [2]net.Conn{}
	pair[0], pair[1] = net.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := handle(context.Background(), pair[1], testOptions(cache))
		ended <- errors.Join(err, pair[1].Close())
	}()
	if err := gitwire.WriteMessage(pair[0], r); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(pair[0])
	var a gitwire.Answer
	if err := gitwire.ReadMessage(in, gitwire.MaxAnswer, &a); err != nil {
		t.Fatal(err)
	}
	var headers []tar.Header
	var contents bytes.Buffer
	if a.Fault == "" && !a.Unchanged {
		archive := tar.NewReader(in)
		for {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			headers = append(headers, *h)
			if _, err := io.Copy(&contents, archive); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, _ = io.Copy(io.Discard, in)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return a, headers, contents.String()
}

func describe(headers []tar.Header) string {
	var text strings.Builder
	for _, h := range headers {
		fmt.Fprintf(&text, "%c %o %s", h.Typeflag, h.Mode, h.Name)
		if h.Linkname != "" {
			fmt.Fprintf(&text, " -> %s", h.Linkname)
		}
		text.WriteByte('\n')
	}
	return text.String()
}

func TestFetchesTreeThenOnlyWhatChanged(t *testing.T) {
	r := newRepository(t)
	r.commit(map[string]string{"index.html": "one", "css/a.css": "body{}"})
	if err := os.Symlink("css/a.css", filepath.Join(r.dir, "style")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "run"), []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	first := r.commit(nil)
	cache, q := t.TempDir(), r.request()
	a, headers, _ := ask(t, cache, q)
	want := "5 755 css/\n0 644 css/a.css\n0 644 index.html\n0 755 run\n2 644 style -> css/a.css\n"
	if got := describe(headers); a.Commit != first || a.Base != "" || a.Files != 3 || got != want {
		t.Fatalf("the answer is %+v, the tree\n%s, want commit %s and\n%s", a, got, first, want)
	}

	q.Base = first
	if a, _, _ = ask(t, cache, q); !a.Unchanged || a.Commit != first {
		t.Fatalf("the answer without a push is %+v", a)
	}

	r.git("mv", "css/a.css", "b.css")
	second := r.commit(map[string]string{"index.html": "two"})
	a, headers, contents := ask(t, cache, q)
	want = "1 644 b.css -> css/a.css\n0 644 index.html\n1 644 run -> run\n2 644 style -> css/a.css\n"
	if got := describe(headers); a.Commit != second || a.Base != first || got != want {
		t.Fatalf("the answer is %+v, the tree\n%s, want\n%s", a, got, want)
	}
	if contents != "two" {
		t.Errorf("the contents are %q, and only the changed file's are asked for", contents)
	}

	if err := os.RemoveAll(cache); err != nil { // the fetcher was replaced
		t.Fatal(err)
	}
	third := r.commit(map[string]string{"index.html": "three"})
	q.Base = second
	if a, headers, _ = ask(t, cache, q); a.Commit != third || a.Base != "" || len(headers) != 4 {
		t.Fatalf("without a cache the answer is %+v\n%s", a, describe(headers))
	}
}

func TestRefs(t *testing.T) {
	r := newRepository(t)
	first := r.commit(map[string]string{"a/b/c": "1", "x": "1"})
	r.git("tag", "-a", "-m", "x", "v1")
	r.git("branch", "both")
	r.git("tag", "old")
	second := r.commit(map[string]string{"a/b/c": "2"})
	r.git("tag", "both")
	for _, tt := range []struct {
		ref, commit string
		fault       gitwire.Fault
	}{
		{"", second, ""},
		{"main", second, ""},
		{"refs/heads/main", second, ""},
		{"v1", first, ""},
		{"old", first, ""},
		{"refs/tags/both", second, ""},
		{"both", "", gitwire.Refused},
		{"none", "", gitwire.NotFound},
		{"--upload-pack=x", "", gitwire.NotFound},
		{second, second, ""},
	} {
		q := r.request()
		q.Ref = tt.ref
		if a, _, _ := ask(t, t.TempDir(), q); a.Commit != tt.commit || a.Fault != tt.fault {
			t.Errorf("ref %q: %+v, want %q %q", tt.ref, a, tt.commit, tt.fault)
		}
	}
	q := r.request()
	q.SubPath = "a/b"
	if _, headers, _ := ask(t, t.TempDir(), q); describe(headers) != "0 644 c\n" {
		t.Errorf("subPath a/b: %s", describe(headers))
	}
	q.SubPath = "a/none"
	if a, _, _ := ask(t, t.TempDir(), q); a.Fault != gitwire.NotFound {
		t.Errorf("subPath a/none: %+v", a)
	}
}

func TestCredentials(t *testing.T) {
	r := newRepository(t)
	r.password = "hunter2"
	commit := r.commit(map[string]string{"x": "1"})
	cache, q := t.TempDir(), r.request()
	if a, _, _ := ask(t, cache, q); a.Commit != commit {
		t.Fatalf("with the password: %+v", a)
	}
	// What is in the cache is for nobody whom the server refuses.
	q.Credentials.Password = "wrong-secret"
	if a, _, _ := ask(t, cache, q); a.Fault != gitwire.Unauthorized ||
		strings.Contains(a.Message, "wrong-secret") {
		t.Errorf("with a wrong password: %+v", a)
	}
	q.Credentials.Authorities = ""
	if a, _, _ := ask(t, cache, q); a.Fault != gitwire.Unauthorized ||
		!strings.Contains(a.Message, "ca.crt") {
		t.Errorf("with the public authorities: %+v", a)
	}
}

func TestRefusesAddressesAndRedirects(t *testing.T) {
	r := newRepository(t)
	r.commit(map[string]string{"x": "1"})
	q := r.request()
	q.Addresses = nil
	if a, _, _ := ask(t, t.TempDir(), q); a.Fault != gitwire.Refused {
		t.Errorf("a loopback address: %+v", a)
	}
	target := r.server.URL
	moved := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, target+q.URL.RequestURI(), http.StatusFound)
	}))
	defer moved.Close()
	q = r.request()
	q.URL = moved.URL + "/site/.git"
	if a, _, _ := ask(t, t.TempDir(), q); a.Fault != gitwire.Refused ||
		!strings.Contains(a.Message, "redirects") {
		t.Errorf("a redirect: %+v", a)
	}
	for _, url := range []string{"file:///etc", "ext::sh -c id", "git://127.0.0.1/x", "/etc", "../x"} {
		q.URL = url
		if a, _, _ := ask(t, t.TempDir(), q); a.Fault != gitwire.Refused {
			t.Errorf("%s: %+v", url, a)
		}
	}
}

func TestLimits(t *testing.T) {
	r := newRepository(t)
	files := map[string]string{"big": strings.Repeat("0123456789abcdef", 1<<16)}
	for i := range 50 {
		files[fmt.Sprintf("d/%d", i)] = strconv.Itoa(i)
	}
	r.commit(files)
	for name, limit := range map[string]func(*gitwire.Limits){
		"pack":    func(l *gitwire.Limits) { l.PackBytes = 1000 },
		"objects": func(l *gitwire.Limits) { l.Objects = 20 },
		"bytes":   func(l *gitwire.Limits) { l.TreeBytes = 1 << 20 },
		"entries": func(l *gitwire.Limits) { l.Entries = 51 },
	} {
		q := r.request()
		limit(&q.Limits)
		if a, _, _ := ask(t, t.TempDir(), q); a.Fault != gitwire.TooLarge {
			t.Errorf("%s: %+v", name, a)
		}
	}
}
