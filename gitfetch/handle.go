package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// handle reads a request, and answers it with a tree or with what is wrong.
func handle(ctx context.Context, conn net.Conn, cache string) error {
	var r gitwire.Request
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if err := gitwire.ReadMessage(bufio.NewReader(conn), gitwire.MaxRequest, &r); err != nil {
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
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	began := time.Now()
	t, err := fetch(ctx, r, cache)
	if err != nil {
		return refuse(conn, r, classify(ctx, err))
	}
	defer t.close()
	klog.V(3).InfoS("Fetched", "url", r.URL, "ref", r.Ref, "commit", t.answer.Commit, "unchanged",
		t.answer.Unchanged, "files", t.answer.Files, "bytes", t.answer.Bytes, "took", time.Since(began))
	out := bufio.NewWriterSize(conn, 256<<10)
	if err := gitwire.WriteMessage(out, t.answer); err != nil {
		return err
	}
	if !t.answer.Unchanged {
		if err := t.write(out); err != nil {
			return fmt.Errorf("%s: write the tree: %w", r.URL, err)
		}
	}
	return out.Flush()
}

// refuse says what is wrong, without the secrets that a library or a server may have repeated.
func refuse(conn net.Conn, r gitwire.Request, fault *gitwire.Error) error {
	message := fault.Message
	for _, secret := range []string{r.Credentials.Password, r.Credentials.PrivateKey} {
		if secret != "" {
			message = strings.ReplaceAll(message, secret, "***")
		}
	}
	message = strings.ToValidUTF8(message, "?")
	if len(message) > 1024 {
		message = message[:1024] + "…"
	}
	klog.V(2).InfoS("Not fetched", "url", r.URL, "ref", r.Ref, "fault", fault.Fault, "message", message)
	return gitwire.WriteMessage(conn, gitwire.Answer{
		Version: gitwire.Version, Fault: fault.Fault, Message: message,
	})
}

func fault(kind gitwire.Fault, format string, args ...any) error {
	return &gitwire.Error{Fault: kind, Message: fmt.Sprintf(format, args...)}
}

// classify gives an error its fault. One that has none already comes from the transport or from the
// object store.
func classify(ctx context.Context, err error) *gitwire.Error {
	if known, ok := errors.AsType[*gitwire.Error](err); ok {
		return known
	}
	kind := gitwire.Unreachable
	_, isNet := errors.AsType[net.Error](err)
	switch {
	case ctx.Err() != nil:
		return &gitwire.Error{Fault: gitwire.Unreachable, Message: "the time for one fetch has run out"}
	case errors.Is(err, transport.ErrAuthenticationRequired),
		errors.Is(err, transport.ErrAuthorizationFailed),
		errors.Is(err, transport.ErrInvalidAuthMethod),
		strings.Contains(err.Error(), "unable to authenticate"): // x/crypto/ssh has no sentinel
		kind = gitwire.Unauthorized
	case errors.Is(err, transport.ErrRepositoryNotFound),
		errors.Is(err, transport.ErrEmptyRemoteRepository):
		kind = gitwire.NotFound
	case strings.Contains(err.Error(), "redirects disabled"): // of go-git, which has no sentinel
		return &gitwire.Error{Fault: gitwire.Refused, Message: "redirects are not followed: use " +
			"the URL that the server redirects to: " + err.Error()}
	case isNet:
	case errors.Is(err, plumbing.ErrObjectNotFound), errors.Is(err, plumbing.ErrInvalidType):
		kind = gitwire.Malformed
	}
	return &gitwire.Error{Fault: kind, Message: err.Error()}
}
