package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// refsOr serves the refs of a good repository, and something else instead of its pack; or the other
// way round.
func (r *rig) refsOr(pack http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodGet {
			r.good.ServeHTTP(w, q)
			return
		}
		pack(w, q)
	}
}

// answer is the same to each request.
func answer(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// status is an HTTP error.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "\x1b[31mno\r\n", code) }
}

// without an end, until the client goes away.
func endless(start, part string) http.HandlerFunc {
	part = strings.Repeat(part, 1+(256<<10)/len(part))
	return func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.WriteString(w, start)
		for err == nil {
			_, err = io.WriteString(w, part)
		}
	}
}

// echo says who the client is.
func echo() http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		_, password, _ := q.BasicAuth()
		_, _ = io.WriteString(w, service+pkt("ERR you are "+password+q.Header.Get("Authorization")))
	}
}

// drip sends a byte of a text now and then, again and again.
func drip(start, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.WriteString(w, start)
		for i := 0; err == nil; i++ {
			time.Sleep(20 * time.Millisecond)
			if err = http.NewResponseController(w).Flush(); err == nil {
				_, err = io.WriteString(w, text[i%len(text):i%len(text)+1])
			}
		}
	}
}

func zipped(h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		h.ServeHTTP(zippedResponse{w, z}, q)
		_ = z.Close() // the client may have gone
	}
}

type zippedResponse struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (r zippedResponse) Write(b []byte) (int, error) { return r.z.Write(b) }

// refs are those of a repository with one more.
func refs(commit, name string) string {
	return service + pkt(commit+" HEAD\x00"+capabilities+"\n") + pkt(commit+" "+name+"\n") + flush
}

func TestHostileServers(t *testing.T) {
	r := newRig(t)
	commit := r.commit.String()
	manyRefs := pkt(commit + " refs/heads/" + strings.Repeat("x", 200) + "\n")
	first := service + pkt(commit+" HEAD\x00"+capabilities+"\n")
	for i, tt := range []struct {
		what  string
		serve http.Handler
		fault gitwire.Fault // none: the tree arrives
		text  string
	}{
		{"a good server that zips", zipped(r.good), "", ""},
		{"a name of a ref that is a path", goodWith(r, "refs/heads/../../etc"), "", ""},
		{"a name of a ref that drives a terminal", goodWith(r, "refs/heads/\x1b[31m"), "", ""},
		{"a name of a ref of 60 KiB", goodWith(r, "refs/heads/"+strings.Repeat("x", 60<<10)), "", ""},
		{"a ref with a space", answer(refs(commit, "refs/heads/a b")), gitwire.Unreachable, "malformed ref"},
		{"a ref that is no hash", answer(refs(strings.Repeat("x", 40), "HEAD")), gitwire.Unreachable, "hash"},
		{"no refs", answer(service + flush), gitwire.NotFound, "empty"},
		{"nothing", answer(""), gitwire.Unreachable, "empty"},
		{"a page", answer("<html><body>sign in</body></html>"), gitwire.Unreachable, ""},
		{"a line that is longer than it can be", answer("ffff" + strings.Repeat("x", 70_000)), gitwire.Unreachable, ""},
		{"a line that is shorter than its length", answer(service + "0100short"), gitwire.Unreachable, ""},
		{"a length of 2", answer(service + "0002"), gitwire.Unreachable, ""},
		{"refs without an end", answer(first), gitwire.Unreachable, ""},
		{
			"an error that drives a terminal", answer(service + pkt("ERR \x1b[31mno\r\nI1129 forged")),
			gitwire.Unreachable, "?[31mno??I1129 forged",
		},
		{"the client's secret as an error", echo(), gitwire.Unreachable, "you are ***Basic ***"},
		{"401", status(http.StatusUnauthorized), gitwire.Unauthorized, ""},
		{"403", status(http.StatusForbidden), gitwire.Unauthorized, ""},
		{"404", status(http.StatusNotFound), gitwire.NotFound, ""},
		{"500", status(http.StatusInternalServerError), gitwire.Unreachable, "500"},
		{"500 for the pack", r.refsOr(status(http.StatusInternalServerError)), gitwire.Unreachable, "500"},
		{"401 for the pack", r.refsOr(status(http.StatusUnauthorized)), gitwire.Unauthorized, ""},
		{"a header without an end", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 10<<20))
		}), gitwire.Unreachable, "header"},
		{"refs that never end", endless(first, manyRefs), gitwire.TooLarge, ""},
		{"a zip of refs that never end", zipped(endless(first, manyRefs)), gitwire.TooLarge, ""},
		{"shallow commits that never end", endless(first, pkt("shallow "+commit)), gitwire.TooLarge, ""},
		{"an error page that never ends", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			endless("", "x")(w, q)
		}), gitwire.Unreachable, "500"},
		{"acknowledgements that never end", r.refsOr(endless("", nak)), gitwire.Unreachable, "too_large"},
		{"a pack that never ends", r.refsOr(endless(nak+string(r.good.pack), "x")), gitwire.TooLarge, "8388608"},
		{"a pack whose connection breaks", r.refsOr(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, nak+string(r.good.pack[:50]))
			panic(http.ErrAbortHandler)
		}), gitwire.Unreachable, "EOF"},
		{"a flush instead of a pack", r.refsOr(answer(flush)), gitwire.Unreachable, "flush"},
		{"an error instead of a pack", r.refsOr(answer(pkt("ERR no such luck"))), gitwire.Unreachable, "no such luck"},
		{"refs by the byte", drip(first, manyRefs), gitwire.Unreachable, timeIsOver},
		{"a pack by the byte", r.refsOr(drip(nak+string(r.good.pack[:20]), "x")), gitwire.Unreachable, timeIsOver},
	} {
		t.Run(tt.what, func(t *testing.T) {
			path := fmt.Sprintf("/server%d", i)
			r.mux.Handle(path+"/", tt.serve)
			q := r.request(path)
			q.Credentials.Password = "hunter2"
			if tt.text == timeIsOver {
				q.Limits.Time = time.Second
			}
			_, err := r.fetch(t, q)
			if tt.fault == "" && err != nil {
				t.Errorf("the error is %v", err)
			} else if tt.fault != "" {
				wantFault(t, err, tt.fault, tt.text)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || len(err.Error()) > 1200) {
				t.Errorf("the error is %.2000q", err)
			}
			r.wantServing(t)
		})
	}
}

// forever writes a text until the client goes away, all the time or a byte now and then.
func forever(w io.Writer, text string, pause time.Duration) (err error) {
	if pause == 0 {
		text = strings.Repeat(text, 1+(32<<10)/len(text))
	}
	for i := 0; err == nil; i++ {
		part := text
		if pause > 0 {
			part = text[i%len(text) : i%len(text)+1]
			time.Sleep(pause)
		}
		err = say(w, part)
	}
	return err
}

func say(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

func TestHostileServersOfSSH(t *testing.T) {
	r := newRig(t)
	ref := pkt(r.commit.String() + " refs/heads/" + strings.Repeat("x", 200) + "\n")
	first := pkt(r.commit.String() + " HEAD\x00" + capabilities + "\n")
	for _, tt := range []struct {
		what  string
		run   func(c ssh.Channel) error
		fault gitwire.Fault
		text  string
	}{
		{"nothing", func(ssh.Channel) error { return nil }, gitwire.Unreachable, ""},
		{"a shell", func(c ssh.Channel) error { return say(c, "$ ") }, gitwire.Unreachable, ""},
		{"an error that drives a terminal", func(c ssh.Channel) error {
			return say(c.Stderr(), "\x1b[31mno\n")
		}, gitwire.Unreachable, "?[31mno"},
		{"refs without an end", func(c ssh.Channel) error {
			return say(c, first)
		}, gitwire.Unreachable, ""},
		{"no pack", func(c ssh.Channel) error {
			err := say(c, first+flush)
			_, _ = io.Copy(io.Discard, c) // until the client has asked
			return errors.Join(err, say(c, nak))
		}, gitwire.Malformed, ""},
		{"a pack that never ends", func(c ssh.Channel) error {
			return errors.Join(say(c, first+flush+nak), say(c, string(r.good.pack)), forever(c, "x", 0))
		}, gitwire.TooLarge, "8388608"},
		{"refs that never end", func(c ssh.Channel) error {
			err := say(c, first)
			for i := 0; err == nil; i++ {
				err = say(c, pkt(fmt.Sprintf("%s refs/heads/%0200d\n", r.commit, i)))
			}
			return err
		}, gitwire.TooLarge, "memory"},
		{"a ref again and again", func(c ssh.Channel) error {
			return errors.Join(say(c, first), forever(c, ref, 0))
		}, gitwire.Unreachable, timeIsOver},
		{"errors that never end", func(c ssh.Channel) error {
			return forever(c.Stderr(), "no", 0)
		}, gitwire.Unreachable, timeIsOver},
		{"refs by the byte", func(c ssh.Channel) error {
			return forever(c, first+ref, 20*time.Millisecond)
		}, gitwire.Unreachable, timeIsOver},
	} {
		t.Run(tt.what, func(t *testing.T) {
			server := newSSHServerOf(t, tt.run)
			q := r.request("/good")
			q.URL, q.Credentials = server.url("/x"), server.credentials()
			if tt.text == timeIsOver {
				q.Limits.Time = time.Second
			}
			_, err := r.fetch(t, q)
			wantFault(t, err, tt.fault, tt.text)
			r.wantServing(t)
		})
	}
}

// goodWith is the good repository with one more ref.
func goodWith(r *rig, name string) http.Handler {
	s := r.good
	s.refs = append(s.refs[:1:1], r.commit.String()+" "+name)
	return s
}

// A redirect leads to no other server, protocol or path, and takes no secret there. What a server
// asks for in other ways is not heard, either.
func TestRedirectsAreNotFollowed(t *testing.T) {
	r := newRig(t)
	var visits atomic.Int32
	count := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		visits.Add(1)
		r.good.ServeHTTP(w, q)
	})
	other, plain := httptest.NewTLSServer(count), httptest.NewServer(count)
	t.Cleanup(other.Close)
	t.Cleanup(plain.Close)
	r.mux.Handle("/other/", count)
	n := 0
	for _, target := range []string{
		other.URL, plain.URL, r.server.URL + "/other", "file:///etc/passwd", "ssh://git@127.0.0.1/x",
	} {
		for _, code := range []int{301, 302, 303, 307, 308} {
			redirect := func(w http.ResponseWriter, q *http.Request) {
				http.Redirect(w, q, target+q.URL.RequestURI(), code)
			}
			for _, serve := range []http.HandlerFunc{redirect, r.refsOr(redirect)} {
				n++
				path := fmt.Sprintf("/redirect%d", n)
				r.mux.Handle(path+"/", serve)
				q := r.request(path)
				q.Credentials.Password = "hunter2"
				_, err := r.fetch(t, q)
				known, ok := errors.AsType[*gitwire.Error](err)
				if !ok || known.Fault != gitwire.Refused || !strings.Contains(known.Message, "redirects") {
					t.Errorf("%d to %s: %v", code, target, err)
				}
			}
		}
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("%d requests were sent to another server", n)
	}
	r.wantServing(t)
}
