package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no authorities
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

const (
	dialTimeout = 20 * time.Second
	sshPort     = 22
	// maxAdvertisement bounds, in bytes, what a server says of its refs.
	maxAdvertisement = 64 << 20
	// maxErrorPage is as much of an error of HTTP as go-git may take into memory.
	maxErrorPage = 4 << 10
)

// newSession opens a session with the server. Only https, ssh and http exist: no file, no git
// protocol, no helper program.
func newSession(
	ctx context.Context, r gitwire.Request, o options,
) (transport.UploadPackSession, error) {
	// go-git also takes paths and scp's host:path, which leave the scheme open.
	parsed, err := url.Parse(r.URL)
	if err != nil {
		return nil, fault(gitwire.Refused, "the URL: %v", err)
	}
	if !slices.Contains([]string{"https", "ssh", "http"}, parsed.Scheme) {
		return nil, fault(gitwire.Refused, "the URL's scheme is %q: use https or ssh", parsed.Scheme)
	}
	if parsed.Hostname() == "" {
		return nil, fault(gitwire.Refused, "the URL has no host")
	}
	endpoint, err := transport.NewEndpoint(r.URL)
	if err != nil {
		return nil, fault(gitwire.Refused, "the URL: %v", err)
	}
	if endpoint.Password != "" || (endpoint.User != "" && endpoint.Protocol != "ssh") {
		return nil, fault(gitwire.Refused, "the URL has credentials: put them into a secret")
	}
	allowed := addresses{allowed: r.Addresses, refused: o.refused}
	if parsed.Scheme == "ssh" {
		return newSSHSession(ctx, endpoint, r.Credentials, allowed)
	}
	return newHTTPSession(endpoint, r, allowed)
}

func newHTTPSession(
	endpoint *transport.Endpoint, r gitwire.Request, allowed addresses,
) (transport.UploadPackSession, error) {
	credentials := r.Credentials
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if credentials.Authorities != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(credentials.Authorities)) {
			return nil, fault(gitwire.Unauthorized, "the secret's ca.crt has no certificate in PEM")
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout, ControlContext: allowed.control}
	client := &http.Client{Transport: boundedResponses{
		refs: maxAdvertisement,
		pack: maxAdvertisement + 2*r.Limits.PackBytes, // progress and frames come with the pack
		next: &http.Transport{ // without a proxy
			DialContext:            dialer.DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  2 * time.Minute, // a server may count objects first
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
	}}
	var auth transport.AuthMethod
	if credentials.Password != "" {
		if endpoint.Protocol != "https" {
			return nil, fault(gitwire.Refused, "credentials are not sent over http: use https")
		}
		auth = &githttp.BasicAuth{Username: userOf(credentials), Password: credentials.Password}
	}
	options := &githttp.ClientOptions{RedirectPolicy: githttp.NoFollowRedirects}
	return githttp.NewClientWithOptions(client, options).NewUploadPackSession(endpoint, auth)
}

// userOf: servers that take tokens want some name, and look at the token only.
func userOf(c gitwire.Credentials) string { return cmp.Or(c.Username, "git") }

// boundedResponses ends a response that is longer than any that is wanted.
type boundedResponses struct {
	next http.RoundTripper
	// refs and pack are the most bytes of the two answers: to GET and to POST.
	refs, pack int64
}

func (b boundedResponses) RoundTrip(q *http.Request) (*http.Response, error) {
	answer, err := b.next.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	body := &boundedBody{ReadCloser: answer.Body, left: b.refs}
	if q.Method == http.MethodPost {
		body.left = b.pack
	}
	answer.Body = body
	if answer.StatusCode != http.StatusOK {
		body.left = maxErrorPage
		body.isClipped = true
	}
	return answer, nil
}

type boundedBody struct {
	io.ReadCloser
	left int64
	// isClipped: what follows is not wanted, and no error.
	isClipped bool
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.isClipped {
		if b.left <= 0 {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fault(gitwire.TooLarge, "the server's answer is longer than any that is asked for")
	}
	return n, err
}

// newSSHSession resolves the name itself, because go-git dials without a hook: the address that was
// checked is the one that is dialled.
func newSSHSession(
	ctx context.Context, endpoint *transport.Endpoint, credentials gitwire.Credentials,
	allowed addresses,
) (transport.UploadPackSession, error) {
	if credentials.PrivateKey == "" || credentials.KnownHosts == "" {
		return nil, fault(gitwire.Unauthorized,
			"ssh needs a secret with ssh-privatekey and known_hosts")
	}
	user := endpoint.User
	if user == "" {
		user = "git"
	}
	key, err := ssh.ParsePrivateKey([]byte(credentials.PrivateKey))
	if err != nil {
		return nil, fault(gitwire.Unauthorized, "the secret's ssh-privatekey: %v", err)
	}
	port := endpoint.Port
	if port == 0 {
		port = sshPort
	}
	known, algorithms, err := hostKeys(credentials.KnownHosts, endpoint.Host, port)
	if err != nil {
		return nil, err
	}
	address, err := allowed.resolve(ctx, endpoint.Host)
	if err != nil {
		return nil, err
	}
	dialled := *endpoint
	dialled.Host, dialled.Port = address.String(), port
	// No file of the container's user says to which host a name leads.
	gitssh.DefaultSSHConfig = nil
	return gitssh.NewClient(nil).NewUploadPackSession(&dialled, sshAuth{&ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: known,
		HostKeyAlgorithms: algorithms, Timeout: dialTimeout,
	}})
}

// sshAuth gives go-git the whole configuration. One that go-git's client is made with would replace
// each of its fields, also by zero values.
type sshAuth struct{ config *ssh.ClientConfig }

func (sshAuth) Name() string     { return "ssh-public-keys" }
func (a sshAuth) String() string { return a.Name() }

// ClientConfig has no error of its own; go-git's interface wants one.
func (a sshAuth) ClientConfig() (*ssh.ClientConfig, error) { //nolint:unparam // go-git's interface
	return a.config, nil
}

// hostKeys verifies a server by the name in the URL. It also returns the algorithms of the keys
// that are known of it, so that the server shows one of these.
func hostKeys(known, host string, port int) (ssh.HostKeyCallback, []string, error) {
	// The package reads files only. This one is in memory: the container has no directory for it.
	fd, err := unix.MemfdCreate("known_hosts", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	file := os.NewFile(uintptr(fd), path) // #nosec G115 -- a descriptor
	defer file.Close()
	if _, err := file.WriteString(known); err != nil {
		return nil, nil, err
	}
	callback, err := knownhosts.New(path)
	if err != nil {
		return nil, nil, fault(gitwire.Unauthorized, "the secret's known_hosts: %v", err)
	}
	name := net.JoinHostPort(host, strconv.Itoa(port))
	verify := func(_ string, remote net.Addr, key ssh.PublicKey) error {
		if err := callback(name, remote, key); err != nil {
			return fault(gitwire.Unauthorized, "the server's key: %v", err)
		}
		return nil
	}
	return verify, keyAlgorithms(callback, name), nil
}

// keyAlgorithms asks the list with a key that nobody has: its error names those that it has.
func keyAlgorithms(callback ssh.HostKeyCallback, name string) (algorithms []string) {
	keyErr, ok := errors.AsType[*knownhosts.KeyError](callback(name, &net.TCPAddr{}, noKey{}))
	if !ok {
		return nil
	}
	for _, k := range keyErr.Want {
		if k.Key.Type() == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		algorithms = append(algorithms, k.Key.Type())
	}
	return algorithms
}

type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }
