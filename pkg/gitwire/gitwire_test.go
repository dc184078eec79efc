package gitwire

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

type ending int

// The fetcher closes the connection, or leaves that to the driver.
const (
	closed ending = iota
	open
)

// fetcher listens, reads one request and answers with a text. What it read is in the channel.
func fetcher(t *testing.T, answer string, end ending) (string, <-chan Request) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); <-ended })
	requests := make(chan Request, 1)
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var r Request
		if err := ReadMessage(bufio.NewReader(conn), MaxRequest, &r); err != nil {
			t.Error(err)
		}
		requests <- r
		_, _ = io.WriteString(conn, answer)
		if end == open {
			_, _ = io.Copy(io.Discard, conn) // until the driver gives up
		}
	}()
	return socket, requests
}

func request() Request {
	return Request{
		URL: "https://git.example.com/site", Base: commitA, Limits: Limits{Time: time.Minute},
		Credentials: Credentials{Password: "hunter2"},
	}
}

func TestFetchReturnsAnswerAndArchive(t *testing.T) {
	answer := fmt.Sprintf(`{"version":1,"commit":%q,"base":%q,"files":2,"bytes":3}`, commitB, commitA)
	socket, requests := fetcher(t, answer+"\nthe archive", closed)
	f, err := Fetch(t.Context(), socket, request())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	archive, err := io.ReadAll(f.Archive)
	if err != nil || string(archive) != "the archive" || f.Answer.Commit != commitB {
		t.Errorf("the answer is %+v, the archive %q, %v", f.Answer, archive, err)
	}
	r := <-requests
	if r.Version != Version || r.Credentials.Password != "hunter2" || r.Base != commitA {
		t.Errorf("the fetcher got %+v", r)
	}
}

func TestFetchRefusesWhatNoFetcherSays(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":           "",
		"no end":            strings.Repeat("x", 2*MaxAnswer),
		"no JSON":           "<html>\n",
		"other version":     `{"version":2,"commit":"` + commitB + `"}` + "\n",
		"no commit":         `{"version":1}` + "\n",
		"commit is a path":  `{"version":1,"commit":"../../../../../../../../../../../../../../"}` + "\n",
		"upper case":        `{"version":1,"commit":"` + strings.ToUpper(commitB) + `"}` + "\n",
		"another base":      `{"version":1,"commit":"` + commitB + `","base":"` + commitB + `"}` + "\n",
		"unchanged, but":    `{"version":1,"commit":"` + commitB + `","unchanged":true}` + "\n",
		"less than nothing": `{"version":1,"commit":"` + commitB + `","bytes":-1}` + "\n",
	} {
		socket, _ := fetcher(t, answer, closed)
		f, err := Fetch(t.Context(), socket, request())
		if err == nil {
			f.Close()
			t.Errorf("%s: accepted", name)
		} else if _, ok := errors.AsType[*Error](err); ok {
			t.Errorf("%s: %v is a fault of the repository", name, err)
		}
	}
}

func TestFetchReturnsFaults(t *testing.T) {
	socket, _ := fetcher(t, `{"version":1,"fault":"too_large","message":"much"}`+"\n", closed)
	_, err := Fetch(t.Context(), socket, request())
	fault, ok := errors.AsType[*Error](err)
	if !ok || fault.Fault != TooLarge || fault.Message != "much" {
		t.Errorf("the error is %v", err)
	}
}

func TestMessagesAreCleanedOnBothSides(t *testing.T) {
	for _, tc := range []struct{ message, want string }{
		{"no such ref: größer", "no such ref: größer"},
		{"a\nE1129 forged\x1b[2J\x00\u202e", "a?E1129 forged?[2J??"},
		{"\xff", "?"},
		{strings.Repeat("ö", maxMessage), strings.Repeat("ö", maxMessage/2) + "…"},
		{"x" + strings.Repeat("ö", maxMessage), "x" + strings.Repeat("ö", maxMessage/2-1) + "…"},
	} {
		if got := Clean(tc.message); got != tc.want {
			t.Errorf("%.40q of %d bytes is %.40q of %d bytes", tc.message, len(tc.message), got, len(got))
		}
		err := Answer{Fault: NotFound, Message: tc.message}.Err()
		if got := err.Error(); got != "not_found: "+tc.want {
			t.Errorf("%.40q is told as %.40q", tc.message, got)
		}
	}
}

func TestFetchEndsWithContext(t *testing.T) {
	socket, requests := fetcher(t, "", open)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-requests; cancel() }()
	if _, err := Fetch(ctx, socket, request()); !errors.Is(err, context.Canceled) {
		t.Errorf("before the answer: %v", err)
	}

	socket, _ = fetcher(t, `{"version":1,"commit":"`+commitB+`"}`+"\npart", open)
	ctx, cancel = context.WithCancel(t.Context())
	f, err := Fetch(ctx, socket, request())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cancel()
	if _, err := io.ReadAll(f.Archive); err == nil {
		t.Error("an archive without its end is whole")
	}
}

func TestFetchWithoutFetcher(t *testing.T) {
	if _, err := Fetch(t.Context(), filepath.Join(t.TempDir(), "s"), request()); err == nil {
		t.Error("a fetch without a fetcher succeeds")
	}
}

func TestCredentialsAreNotPrinted(t *testing.T) {
	r := request()
	for _, text := range []string{
		fmt.Sprint(r), fmt.Sprintf("%+v %#v", r, r), fmt.Sprintf("%v %s", r.Credentials, r.Credentials),
	} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the password is printed: %s", text)
		}
	}
}

// FuzzReadMessage: whatever a fetcher says, a message is read within its bound or not at all.
func FuzzReadMessage(f *testing.F) {
	f.Add("{}\n", 10)
	f.Add(strings.Repeat("[", 10_000)+"\n", 1<<20)
	f.Add(`{"commit":"x"}`, 1000)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		var a Answer
		if err := ReadMessage(bufio.NewReader(strings.NewReader(text)), limit, &a); err != nil {
			return
		}
		line, _, ended := strings.Cut(text, "\n")
		if !ended || len(line) >= limit || !json.Valid([]byte(line)) {
			t.Errorf("%q is a message of at most %d bytes", text, limit)
		}
	})
}

// FuzzAnswer: an answer that is taken has a commit that is one, a base that was asked for, and no
// negative numbers, whatever the fetcher says.
func FuzzAnswer(f *testing.F) {
	f.Add(`{"version":1,"commit":"`+commitB+`","base":"`+commitA+`","files":1,"bytes":2}`, commitA)
	f.Add(`{"version":1,"commit":"`+commitA+`","unchanged":true}`, commitA)
	f.Add(`{"version":1,"fault":"refused","message":"no"}`, "")
	f.Add(`{"version":1,"commit":"../../../../../../../../../../../../../../","bytes":-1}`, "..")
	f.Fuzz(func(t *testing.T, line, base string) {
		var a Answer
		in := bufio.NewReader(strings.NewReader(line + "\n"))
		err := ReadMessage(in, MaxAnswer, &a)
		if err != nil || a.Err() != nil || a.check(Request{Base: base}) != nil {
			return
		}
		if len(a.Commit) != 40 || strings.Trim(a.Commit, "0123456789abcdef") != "" {
			t.Errorf("commit %q", a.Commit)
		}
		if a.Base != "" && a.Base != base || a.Unchanged && a.Commit != base {
			t.Errorf("base %q of %q, commit %q", a.Base, base, a.Commit)
		}
		if a.Files < 0 || a.Bytes < 0 {
			t.Errorf("%d files, %d bytes", a.Files, a.Bytes)
		}
	})
}

// FuzzRequest: a request that the fetcher reads is the one that the driver has written.
func FuzzRequest(f *testing.F) {
	f.Add("https://git.example.com/a", "main", "d/e", commitA, "hunter2", int64(1))
	f.Add("\xff\x00\n", "\u2028", "<&>", "", "\"\\", int64(-1))
	f.Fuzz(func(t *testing.T, url, ref, subPath, base, secret string, limit int64) {
		want := Request{
			Version: Version, URL: url, Ref: ref, SubPath: subPath, Base: base,
			Credentials: Credentials{Password: secret, PrivateKey: secret, KnownHosts: secret},
			Limits:      Limits{PackBytes: limit, Time: time.Duration(limit)},
		}
		var b bytes.Buffer
		if err := WriteMessage(&b, want); err != nil {
			t.Fatal(err)
		}
		var got Request
		if err := ReadMessage(bufio.NewReader(&b), b.Len()+1, &got); err != nil {
			t.Fatal(err)
		}
		for _, text := range []*string{
			&want.URL, &want.Ref, &want.SubPath, &want.Base, &want.Credentials.Password,
			&want.Credentials.PrivateKey, &want.Credentials.KnownHosts,
		} {
			*text = string([]rune(*text)) // JSON has U+FFFD for what is no UTF-8
		}
		if !reflect.DeepEqual(got, want) || b.Len() > 0 {
			t.Errorf("the fetcher reads %+v, want %+v", got, want)
		}
	})
}
