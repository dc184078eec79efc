// Package gitwire is what the driver and the fetcher of git repositories say to each other over a
// unix socket, one request for each connection:
//
//   - The driver writes a Request as one line of JSON.
//   - The fetcher writes an Answer as one line of JSON.
//   - If the Answer has a tree, an archive in the format of tar (POSIX.1-2001 pax) follows it.
//     A directory stands before what is in it. A regular file that the base has already is a hard
//     link: its Linkname is the file's path in the base. Modes are 0644, 0755 or those of links.
//     The archive ends with tar's two blocks of zeroes; an archive without them is not whole.
//
// The driver trusts nothing that it reads. The package uses the standard library only, so that
// nothing of git enters the driver.
package gitwire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
	"unicode"
)

// Version is that of the messages. Either side refuses another one.
const Version = 1

// Jobs is how many requests the fetcher serves at a time, if its flag does not say otherwise. The
// driver sends no more: the time of one that waits in the fetcher would run out.
const Jobs = 3

const (
	// MaxRequest bounds a Request in bytes: a URL, a secret of at most 1 MiB as Kubernetes has it.
	MaxRequest = 2 << 20
	// MaxAnswer bounds an Answer in bytes.
	MaxAnswer = 64 << 10
)

// Request asks for the tree of a commit.
type Request struct {
	Version int `json:"version"`
	// URL is https://… or ssh://…, or http://… if the operator's rule says so, without credentials.
	URL string `json:"url"`
	// Ref is a branch, a tag, a full name (refs/…) or the 40 hex digits of a commit. Empty: HEAD.
	Ref string `json:"ref,omitempty"`
	// Depth is how many commits of the history are fetched; 0: all.
	Depth int `json:"depth"`
	// SubPath is the directory of the tree that is asked for; empty: the root.
	SubPath string `json:"subPath,omitempty"`
	// Base is the commit that the driver has the tree of; empty: none. If the fetcher cannot compare
	// with it, the answer has no base, and the archive is complete.
	Base string `json:"base,omitempty"`
	// Credentials are those of the pod's secret.
	Credentials Credentials `json:"credentials,omitzero"`
	// Addresses are those networks that may be dialled although they are loopback, link-local or the
	// API server's.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Limits    Limits         `json:"limits"`
}

// Credentials prove to a server who asks. The zero value proves nothing.
type Credentials struct {
	// Username and Password are for HTTPS. A token is a password.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	// PrivateKey is for SSH, in PEM, and KnownHosts the server's keys as in known_hosts(5).
	PrivateKey string `json:"privateKey,omitempty"`
	KnownHosts string `json:"knownHosts,omitempty"`
	// Authorities are certificates in PEM that HTTPS servers are verified with instead of the
	// system's.
	Authorities string `json:"authorities,omitempty"`
}

// String keeps secrets out of logs.
func (c Credentials) String() string {
	if c == (Credentials{}) {
		return "none"
	}
	return "redacted"
}

// GoString keeps secrets out of logs.
func (c Credentials) GoString() string { return c.String() }

// Limits bound what a server can cost.
type Limits struct {
	// PackBytes is of what one fetch receives. Objects is the number of its objects.
	PackBytes int64 `json:"packBytes"`
	Objects   int64 `json:"objects"`
	// TreeBytes is the sum of the sizes of the tree's files. Entries is the number of its files,
	// directories and links.
	TreeBytes int64 `json:"treeBytes"`
	Entries   int64 `json:"entries"`
	// Time is how long the whole request may take.
	Time time.Duration `json:"time"`
}

// Fault is why there is no tree.
type Fault string

// The faults.
const (
	// Unreachable: the server did not answer, or not as a git server.
	Unreachable Fault = "unreachable"
	// Unauthorized: the server wants other credentials, or the server's own are wrong.
	Unauthorized Fault = "unauthorized"
	// NotFound: there is no such repository, ref or directory.
	NotFound Fault = "not_found"
	// Refused: a rule or a limit forbids it.
	Refused Fault = "refused"
	// TooLarge: the pack or the tree exceeds a limit.
	TooLarge Fault = "too_large"
	// Malformed: the server sent what is no git repository.
	Malformed Fault = "malformed"
	// Internal: the fetcher is at fault.
	Internal Fault = "internal"
)

// Answer says what the fetcher has.
type Answer struct {
	Version int `json:"version"`
	// Commit has 40 hex digits. Base is Request.Base, or empty.
	Commit string `json:"commit,omitempty"`
	Base   string `json:"base,omitempty"`
	// Unchanged: Commit is Request.Base, and no archive follows.
	Unchanged bool `json:"unchanged,omitempty"`
	// Files and Bytes are those of the archive: its regular files, and their sizes.
	Files int64 `json:"files,omitempty"`
	Bytes int64 `json:"bytes,omitempty"`
	// Fault and Message say why there is no tree. Message has no secret.
	Fault   Fault  `json:"fault,omitempty"`
	Message string `json:"message,omitempty"`
}

// Error is an Answer's fault as an error.
type Error struct {
	Fault   Fault
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Fault, e.Message) }

// Err is nil if there is a tree.
func (a Answer) Err() error {
	if a.Fault == "" {
		return nil
	}
	return &Error{Fault: a.Fault, Message: Clean(a.Message)}
}

// maxMessage bounds what people are told of a fault, in bytes.
const maxMessage = 1 << 10

// Clean returns a message without what could forge a line of a log, drive a terminal or fill an
// event. The fetcher calls it for what a server has said, and the driver for what a fetcher says.
func Clean(message string) string {
	message = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(message, "?"))
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "…"
}

// errTooLong: the line has no end within its bound.
var errTooLong = errors.New("the message is too long")

// WriteMessage writes a message as one line.
func WriteMessage(w io.Writer, message any) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// ReadMessage reads one line of at most limit bytes. What follows it stays in r.
func ReadMessage(r *bufio.Reader, limit int, message any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return errTooLong
		}
		line = append(line, part...)
		if err == nil {
			return json.Unmarshal(line, message)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}
