package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// timeIsOver is the message of a request that did not end in time.
const timeIsOver = "the time for one fetch has run out"

// abandonAfter is how long a request has, after its end, to answer. go-git does not heed the
// context everywhere: while a server of SSH does not answer, for instance.
const abandonAfter = 2 * time.Second

// handle reads a request, and answers it with a tree or with what is wrong.
func handle(ctx context.Context, conn net.Conn, o options) error {
	var r gitwire.Request
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	if err := gitwire.ReadMessage(in, gitwire.MaxRequest, &r); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	if r.Version != gitwire.Version {
		return refuse(conn, r, &gitwire.Error{
			Fault: gitwire.Internal,
			Message: fmt.Sprintf("the driver speaks version %d, the fetcher %d: update both",
				r.Version, gitwire.Version),
		})
	}
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Time)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(abandonAfter, o.abandon) })
	defer stop()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline.Add(abandonAfter)); err != nil {
		return err
	}
	// The driver says no more. A read ends when the driver has gone, and nobody waits any longer.
	go func() {
		_, _ = in.WriteTo(io.Discard)
		cancel()
	}()
	began := time.Now()
	t, err := fetch(ctx, r, o)
	if err != nil {
		return refuse(conn, r, classify(ctx, err))
	}
	defer t.close()
	klog.V(3).InfoS("Fetched", "url", r.URL, "ref", r.Ref, "commit", t.answer.Commit, "unchanged",
		t.answer.Unchanged, "files", t.answer.Files, "bytes", t.answer.Bytes, "took", time.Since(began))
	if sent, err := t.send(conn); err != nil {
		if sent == 0 {
			return refuse(conn, r, classify(ctx, err))
		}
		return fmt.Errorf("%s: send the tree: %w", r.URL, err)
	}
	return nil
}

// send sends the answer, and the tree after it.
func (t *tree) send(to io.Writer) (sent int64, err error) {
	counted := &countedWriter{to: to}
	out := bufio.NewWriterSize(counted, 256<<10)
	if err := gitwire.WriteMessage(out, t.answer); err != nil {
		return counted.n, err
	}
	if !t.answer.Unchanged {
		if err := t.write(out); err != nil {
			return counted.n, err
		}
	}
	err = out.Flush()
	return counted.n, err
}

type countedWriter struct {
	to io.Writer
	n  int64
}

func (w *countedWriter) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	w.n += int64(n)
	return n, err
}

// refuse says what is wrong, without the secrets that a library or a server may have repeated.
func refuse(conn net.Conn, r gitwire.Request, fault *gitwire.Error) error {
	message := fault.Message
	c := r.Credentials
	basic := base64.StdEncoding.EncodeToString([]byte(userOf(c) + ":" + c.Password))
	for _, secret := range []string{c.Password, c.PrivateKey, basic} {
		if secret != "" {
			message = strings.ReplaceAll(message, secret, "***")
		}
	}
	message = gitwire.Clean(message)
	klog.V(2).InfoS("Not fetched", "url", r.URL, "ref", r.Ref, "fault", fault.Fault, "message",
		message)
	return gitwire.WriteMessage(conn, gitwire.Answer{
		Version: gitwire.Version, Fault: fault.Fault, Message: message,
	})
}

func fault(kind gitwire.Fault, format string, args ...any) error {
	return &gitwire.Error{Fault: kind, Message: fmt.Sprintf(format, args...)}
}

// malformed are go-git's errors for what a server sent.
var malformed = []error{
	plumbing.ErrObjectNotFound, plumbing.ErrInvalidType, object.ErrMalformedTree,
	object.ErrMalformedCommit, object.ErrMalformedTag, object.ErrUnsupportedObject,
	packfile.ErrInvalidDelta, packfile.ErrDeltaCmd, packfile.ErrInflatedSizeMismatch,
	packfile.ErrMalformedPackFile,
}

// isSHA256: go-git expects shorter hashes. The line that it does not understand says why.
func isSHA256(err error) bool {
	unexpected, ok := errors.AsType[*packp.ErrUnexpectedData](err)
	return ok && bytes.Contains(unexpected.Data, []byte("object-format=sha256"))
}

// classify gives an error its fault. One that has none already comes from the transport or from the
// object store.
func classify(ctx context.Context, err error) *gitwire.Error {
	if known, ok := errors.AsType[*gitwire.Error](err); ok {
		return known
	}
	kind := gitwire.Unreachable
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isNet := errors.AsType[net.Error](err)
	switch {
	case ctx.Err() != nil:
		return &gitwire.Error{Fault: gitwire.Unreachable, Message: timeIsOver}
	case errors.Is(err, transport.ErrAuthenticationRequired),
		errors.Is(err, transport.ErrAuthorizationFailed),
		errors.Is(err, transport.ErrInvalidAuthMethod),
		strings.Contains(err.Error(), "unable to authenticate"): // x/crypto/ssh has no sentinel
		kind = gitwire.Unauthorized
	case isUnknown: // as a key that known_hosts does not have: the next secret may have the CA
		return &gitwire.Error{Fault: gitwire.Unauthorized, Message: err.Error() +
			": the secret's ca.crt must have the CA of the server"}
	case errors.Is(err, transport.ErrRepositoryNotFound),
		errors.Is(err, transport.ErrEmptyRemoteRepository),
		strings.Contains(err.Error(), "not our ref"): // of git, for a commit that it does not show
		kind = gitwire.NotFound
	case isSHA256(err):
		return &gitwire.Error{
			Fault: gitwire.Refused, Message: "the repository has SHA-256 hashes: use one with SHA-1",
		}
	case strings.Contains(err.Error(), "http redirect"): // of go-git, which has no sentinel
		return &gitwire.Error{Fault: gitwire.Refused, Message: "redirects are not followed: use " +
			"the URL that the server redirects to: " + err.Error()}
	case isNet:
	case slices.ContainsFunc(malformed, func(known error) bool { return errors.Is(err, known) }):
		kind = gitwire.Malformed
	}
	// go-git ends some messages with what a server did not say.
	return &gitwire.Error{Fault: kind, Message: strings.TrimRight(err.Error(), ": ")}
}
