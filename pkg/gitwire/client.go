package gitwire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// graceOfFetcher is how long the fetcher has, after the time of a request, to say that it is over.
const graceOfFetcher = 5 * time.Second

// Fetched is an answer of the fetcher that has a commit. The caller closes it.
type Fetched struct {
	Answer Answer
	// Archive is the tree, as the package's comment says. It has nothing if Answer.Unchanged.
	Archive io.Reader

	conn net.Conn
	stop func() bool
}

// Fetch asks the fetcher that listens on socket. An *Error says why there is no tree; any other
// error means that the fetcher was not reached, died, or said what no fetcher says. Fetch and the
// archive end with the context, and at the latest a little after the request's time. Nothing of the
// answer but its form is checked.
func Fetch(ctx context.Context, socket string, r Request) (*Fetched, error) {
	r.Version = Version
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Time+graceOfFetcher)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("the fetcher of git repositories: %w", err)
	}
	f := &Fetched{conn: conn}
	// A closed connection ends a read that waits. The timer of ctx goes with it.
	interrupt := context.AfterFunc(ctx, func() { _ = conn.Close() })
	f.stop = func() bool { defer cancel(); return interrupt() }
	if err := f.ask(r); err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Fetched) ask(r Request) error {
	if err := WriteMessage(f.conn, r); err != nil {
		return fmt.Errorf("ask the fetcher of git repositories: %w", err)
	}
	in := bufio.NewReaderSize(f.conn, 256<<10)
	if err := ReadMessage(in, MaxAnswer, &f.Answer); err != nil {
		return fmt.Errorf("the answer of the fetcher of git repositories: %w", err)
	}
	if f.Answer.Version != Version {
		return fmt.Errorf("the fetcher of git repositories speaks version %d, the driver %d: "+
			"update both", f.Answer.Version, Version)
	}
	if err := f.Answer.Err(); err != nil {
		return err
	}
	f.Archive = in
	return f.Answer.check(r)
}

var errAnswer = errors.New("the answer of the fetcher of git repositories is malformed")

// check finds what no fetcher says.
func (a Answer) check(r Request) error {
	switch {
	case !isCommit(a.Commit):
		return fmt.Errorf("%w: commit %.100q", errAnswer, a.Commit)
	case a.Base != "" && a.Base != r.Base:
		return fmt.Errorf("%w: base %.100q, asked for %q", errAnswer, a.Base, r.Base)
	case a.Unchanged && a.Commit != r.Base:
		return fmt.Errorf("%w: unchanged commit %s, the base is %q", errAnswer, a.Commit, r.Base)
	case a.Files < 0 || a.Bytes < 0:
		return fmt.Errorf("%w: %d files, %d bytes", errAnswer, a.Files, a.Bytes)
	}
	return nil
}

// isCommit: 40 hex digits, in lower case.
func isCommit(text string) bool {
	if len(text) != 40 {
		return false
	}
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Close ends the connection, and with it the fetcher's work for it.
func (f *Fetched) Close() {
	f.stop()
	_ = f.conn.Close()
}
