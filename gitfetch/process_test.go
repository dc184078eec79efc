package main

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// TestMain builds the program as the image has it: threads of cgo and the race detector need memory
// of their own.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "csi-hostpath-git-")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		program = filepath.Join(dir, "csi-hostpath-git")
		build := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			panic(string(out))
		}
		return m.Run()
	}())
}

// program is a file.
var program string

// startFetcher runs serve, whose requests have processes of their own.
func startFetcher(t testing.TB, o options) (socket string) {
	t.Helper()
	o.program = program
	o.socket = filepath.Join(t.TempDir(), "fetch.sock")
	listener, err := listen(o.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serveOn(ctx, o, listener, o.args()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return o.socket
}

func TestProcessAnswers(t *testing.T) {
	r := newRepository(t)
	r.password = "hunter2"
	commit := r.commit(map[string]string{"a": "1"})
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("GIT_TRACE", "1")
	socket := startFetcher(t, testOptions(t.TempDir()))
	for range 2 {
		f, err := gitwire.Fetch(t.Context(), socket, r.request())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, f.Archive); f.Answer.Commit != commit || n == 0 || err != nil {
			t.Errorf("the answer is %+v, %d bytes, %v", f.Answer, n, err)
		}
		f.Close()
	}
	q := r.request()
	q.Credentials.Password = "wrong-secret"
	_, err := gitwire.Fetch(t.Context(), socket, q)
	if fault, ok := errors.AsType[*gitwire.Error](err); !ok || fault.Fault != gitwire.Unauthorized ||
		strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// A file is never in memory as a whole.
func TestFileLargerThanTheMemoryArrives(t *testing.T) {
	r := newRig(t) // of less memory
	const mib = 160
	r.mux.Handle("/large/", withBlob(func(p *pack) plumbing.Hash {
		return p.zeroes(plumbing.BlobObject, []byte("start"), mib)
	}))
	q := r.request("/large")
	q.Limits.TreeBytes = 1 << 30
	f, err := gitwire.Fetch(t.Context(), r.socket, q)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	archive := tar.NewReader(f.Archive)
	h, err := archive.Next()
	if err != nil || h.Size != mib<<20+5 {
		t.Fatalf("the file is %+v, %v", h, err)
	}
	if n, err := io.Copy(io.Discard, archive); n != h.Size || err != nil {
		t.Errorf("%d bytes have arrived, %v", n, err)
	}
}

// What a power cut leaves of the cache is fetched anew.
func TestDamagedCacheIsReplaced(t *testing.T) {
	r := newRepository(t)
	commit := r.commit(map[string]string{"a": "1", "b": strings.Repeat("2", 5000)})
	for _, name := range []string{"*.pack", "*.idx"} {
		for what, damage := range map[string]func(path string, size int64) error{
			"empty": func(path string, _ int64) error { return os.Truncate(path, 0) },
			"half":  func(path string, size int64) error { return os.Truncate(path, size/2) },
			"zeroes": func(path string, size int64) error {
				return os.WriteFile(path, make([]byte, size), 0o600)
			},
			"gone": func(path string, _ int64) error { return os.Remove(path) },
		} {
			cache, q := t.TempDir(), r.request()
			if a, _, _ := ask(t, cache, q); a.Commit != commit {
				t.Fatalf("%+v", a)
			}
			found, err := filepath.Glob(filepath.Join(cache, "*", "objects", "pack", name))
			if err != nil || len(found) != 1 {
				t.Fatalf("%s: %v, %v", name, found, err)
			}
			info, err := os.Stat(found[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(found[0], info.Size()); err != nil {
				t.Fatal(err)
			}
			unfinished := filepath.Join(filepath.Dir(found[0]), "tmp_pack_1")
			if err := os.WriteFile(unfinished, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if a, headers, _ := ask(t, cache, q); a.Commit != commit || len(headers) != 2 {
				t.Errorf("%s of %s: %+v", what, name, a)
			}
			if _, err := os.Stat(unfinished); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the pack that is not whole: %v", err)
			}
		}
	}
}

// A delta whose copies go back and forth in a large base inflates it for each of them. The request
// ends in time, whatever go-git does.
func TestDeltaThatTakesForeverEndsInTime(t *testing.T) {
	r := newRig(t)
	r.socket = startFetcher(t, testOptions(t.TempDir())) // with memory for the base
	const base, copies = 16 << 20, 100_000
	r.mux.Handle("/slow/", withBlob(func(p *pack) plumbing.Hash {
		at := p.offset()
		p.zeroes(plumbing.BlobObject, nil, base>>20)
		var instructions []byte
		for range copies { // a byte near the end of the base, and 128 from its start
			instructions = append(instructions, 0x94|0x8, 0xff, 0, 1, 0x90, 128)
		}
		const result = copies * (1 + 128)
		p.delta(before(p.offset()-at), delta(base, result, instructions...))
		return plumbing.ComputeHash(plumbing.BlobObject, make([]byte, result))
	}))
	q := r.request("/slow")
	q.Limits.Time = time.Second
	_, err := r.fetch(t, q)
	if known, ok := errors.AsType[*gitwire.Error](err); ok && known.Message != timeIsOver ||
		!ok && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the error is %v", err)
	}
	r.wantServing(t)
}

// silent accepts connections, and says nothing.
func silent(t *testing.T) (address string) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		var conns []net.Conn
		for {
			conn, err := listener.Accept()
			if err != nil {
				for _, c := range conns {
					c.Close()
				}
				return
			}
			conns = append(conns, conn)
		}
	}()
	return listener.Addr().String()
}

func TestServerThatSaysNothing(t *testing.T) {
	r, server := newRepository(t), newSSHServer(t)
	socket := startFetcher(t, testOptions(t.TempDir()))
	address := silent(t)
	for _, q := range []gitwire.Request{r.request(), server.request(r)} {
		q.Limits.Time = time.Second
		switch {
		case strings.HasPrefix(q.URL, "ssh"):
			q.URL = "ssh://git@" + address + "/x"
			q.Credentials.KnownHosts = strings.ReplaceAll(q.Credentials.KnownHosts, server.address, address)
		default:
			q.URL = "https://" + address + "/x"
		}
		_, err := gitwire.Fetch(t.Context(), socket, q)
		fault, ok := errors.AsType[*gitwire.Error](err)
		if !ok || fault.Fault != gitwire.Unreachable || fault.Message != timeIsOver {
			t.Errorf("%s: %v", q.URL, err)
		}
	}
	commit := r.commit(map[string]string{"a": "1"})
	f, err := gitwire.Fetch(t.Context(), socket, r.request())
	if err != nil || f.Answer.Commit != commit {
		t.Fatalf("after that: %v", err)
	}
	f.Close()
}

// A driver that gives up frees the place of its request, whatever the server does.
func TestDriverThatGivesUpEndsTheProcess(t *testing.T) {
	asked, release := make(chan struct{}, 10), make(chan struct{})
	slow := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-release
	}))
	defer slow.Close()
	defer close(release)
	r := newRepository(t)
	commit := r.commit(map[string]string{"a": "1"})
	socket := startFetcher(t, testOptions(t.TempDir())) // one job
	q := r.request()
	q.URL = slow.URL + "/x"
	q.Credentials.Authorities = certificateOf(slow)
	q.Limits.Time = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := gitwire.Fetch(ctx, socket, q); !errors.Is(err, context.Canceled) {
		t.Fatalf("the error is %v", err)
	}
	f, err := gitwire.Fetch(t.Context(), socket, r.request())
	if err != nil || f.Answer.Commit != commit {
		t.Fatalf("after that: %v", err)
	}
	f.Close()
}

func TestCacheIsTrimmed(t *testing.T) {
	cache := t.TempDir()
	for i, name := range []string{"c", "a", "b"} { // from the oldest
		dir := filepath.Join(cache, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "pack"), make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
	}
	left := func() string {
		var names strings.Builder
		entries, err := os.ReadDir(cache)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names.WriteString(e.Name())
		}
		return names.String()
	}
	for _, tt := range []struct {
		limit int64
		left  string
	}{{3000, "abc"}, {2999, "ab"}, {1000, "b"}} {
		if err := trim(cache, tt.limit); err != nil || left() != tt.left {
			t.Errorf("with %d bytes %q is left, want %q, %v", tt.limit, left(), tt.left, err)
		}
	}
	lock, err := tryLock(filepath.Join(cache, "b"))
	if err != nil || lock == nil {
		t.Fatalf("no lock: %v", err)
	}
	if err := trim(cache, 0); err != nil || left() != "b" {
		t.Errorf("a cache in use: %q is left, %v", left(), err)
	}
	lock.Close()
	if err := trim(cache, 0); err != nil || left() != "" {
		t.Errorf("then %q is left, %v", left(), err)
	}
}
