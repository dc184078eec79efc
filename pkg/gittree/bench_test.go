package gittree

import (
	"encoding/pem"
	"fmt"
	"net/http/cgi" //nolint:gosec // Go has mended CVE-2016-5386
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

const (
	benchFiles   = 10_000
	benchDirs    = 200
	benchChanged = 10
	benchBytes   = 2000
)

// BenchmarkContentBesideGit measures the whole path of 10,000 files, from a server on the loopback
// interface through the fetcher to an exchanged, durable tree, beside git clone --depth 1, and a
// refresh of 10 files beside git pull, in turn. git does not sync its files: it is measured with a
// syncfs(2) at its end, too. Run it with -benchtime 5x.
func BenchmarkContentBesideGit(b *testing.B) {
	for _, fstype := range disks.Types() {
		b.Run(fstype, func(b *testing.B) {
			s := newBench(b, fstype)
			var first, clone, cloneSynced, refresh, pull time.Duration
			rounds := 0
			for b.Loop() {
				rounds++
				work := filepath.Join(s.disk, fmt.Sprint("clone-", rounds))
				written, synced := s.timeSynced(func() {
					s.git("/", "clone", "-q", "--depth", "1", s.url, work)
				})
				clone, cloneSynced = clone+written, cloneSynced+synced
				c := s.content(rounds)
				first += took(func() { s.refresh(c) })
				s.change(rounds)
				written, _ = s.timeSynced(func() {
					s.git(work, "fetch", "-q", "--depth", "1")
					s.git(work, "reset", "-q", "--hard", "origin/main")
				})
				pull += written
				refresh += took(func() { s.refresh(c) })
				must(b, c.Close())
			}
			n := float64(rounds) * 1e6
			b.ReportMetric(float64(clone)/n, "clone-ms")
			b.ReportMetric(float64(cloneSynced)/n, "clone+sync-ms")
			b.ReportMetric(float64(first)/n, "first-ms")
			b.ReportMetric(float64(pull)/n, "pull-ms")
			b.ReportMetric(float64(refresh)/n, "refresh-ms")
			b.ReportMetric(float64(first)/float64(clone), "first/clone")
			b.ReportMetric(float64(first)/float64(cloneSynced), "first/clone+sync")
			b.ReportMetric(float64(refresh)/float64(first), "refresh/first")
			b.ReportMetric(float64(refresh)/float64(pull), "refresh/pull")
		})
	}
}

func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// bench is a repository, its server, a fetcher, and a disk for the trees.
type bench struct {
	b                         testing.TB
	disk, source, url, socket string
	authority                 []byte
}

func newBench(b *testing.B, fstype string) *bench {
	b.Helper()
	s := &bench{b: b, disk: disks.New(b, fstype, 4<<30).Dir}
	s.source = filepath.Join(b.TempDir(), "site")
	must(b, os.Mkdir(s.source, 0o755))
	s.git(s.source, "init", "-q", "--initial-branch=main")
	for i := range benchFiles {
		s.write(i, 0)
	}
	s.commit()
	server := httptest.NewTLSServer(&cgi.Handler{
		Path: "/usr/lib/git-core/git-http-backend",
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(s.source), "GIT_HTTP_EXPORT_ALL=1"},
	})
	b.Cleanup(server.Close)
	s.url = server.URL + "/site/.git"
	s.authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	s.startFetcher()
	return s
}

// write gives a file other content, mostly text.
func (s *bench) write(i, round int) {
	s.b.Helper()
	path := filepath.Join(s.source, fmt.Sprintf("dir-%03d", i%benchDirs), fmt.Sprint("file-", i))
	must(s.b, os.MkdirAll(filepath.Dir(path), 0o755))
	var text []byte
	for line := 0; len(text) < benchBytes; line++ {
		text = fmt.Appendf(text, "line %d of file %d in round %d: %x\n", line, i, round, i*line*7919)
	}
	must(s.b, os.WriteFile(path, text, 0o600))
}

func (s *bench) change(round int) {
	s.b.Helper()
	for i := range benchChanged {
		s.write(i*(benchFiles/benchChanged), round)
	}
	s.commit()
}

func (s *bench) commit() {
	s.b.Helper()
	s.git(s.source, "add", "--all")
	s.git(s.source, "commit", "-q", "-m", "x")
}

func (s *bench) git(dir string, args ...string) {
	s.b.Helper()
	args = append([]string{"-c", "http.sslVerify=false"}, args...)
	cmd := exec.CommandContext(s.b.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a",
		"GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.b.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// timeSynced returns how long f takes, and how long until what it has written is on the disk.
func (s *bench) timeSynced(f func()) (written, synced time.Duration) {
	s.b.Helper()
	root, err := os.Open(s.disk)
	must(s.b, err)
	defer root.Close()
	must(s.b, unix.Syncfs(int(root.Fd())))
	start := time.Now()
	f()
	written = time.Since(start)
	must(s.b, unix.Syncfs(int(root.Fd())))
	return written, time.Since(start)
}

func (s *bench) startFetcher() {
	s.b.Helper()
	dir := s.b.TempDir()
	binary := filepath.Join(dir, "csi-hostpath-git")
	build := exec.CommandContext(s.b.Context(), "go", "build", "-o", binary, ".")
	build.Dir = "../../gitfetch"
	if out, err := build.CombinedOutput(); err != nil {
		s.b.Fatalf("%v: %s", err, out)
	}
	s.socket = filepath.Join(dir, "fetch.sock")
	fetcher := exec.CommandContext(s.b.Context(), binary, "-socket", s.socket, "-cache",
		filepath.Join(s.disk, "cache"))
	fetcher.Stderr = os.Stderr
	must(s.b, fetcher.Start())
	s.b.Cleanup(func() {
		_ = fetcher.Process.Kill()
		_ = fetcher.Wait()
	})
	for {
		if _, err := os.Stat(s.socket); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// content is a new one, and the fetcher has nothing of the repository in its cache.
func (s *bench) content(round int) *Content {
	s.b.Helper()
	must(s.b, os.RemoveAll(filepath.Join(s.disk, "cache")))
	must(s.b, os.Mkdir(filepath.Join(s.disk, "cache"), 0o700))
	data := filepath.Join(s.disk, fmt.Sprint("data-", round))
	must(s.b, os.Mkdir(data, 0o755))
	return openContent(s.b, data)
}

func (s *bench) refresh(c *Content) {
	s.b.Helper()
	r := gitwire.Request{
		URL: s.url, Ref: "main", Depth: 1, Base: c.Commit(),
		Addresses:   []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Credentials: gitwire.Credentials{Authorities: string(s.authority)},
		Limits: gitwire.Limits{
			PackBytes: 1 << 30, Objects: 1e6, TreeBytes: 1 << 30, Entries: 1e5, Time: 10 * time.Minute,
		},
	}
	f, err := gitwire.Fetch(s.b.Context(), s.socket, r)
	must(s.b, err)
	defer f.Close()
	must(s.b, c.Replace(s.b.Context(), f.Answer.Commit, f.Answer.Base, r.Limits, f.Archive))
}
