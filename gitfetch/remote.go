package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

const (
	dialTimeout = 20 * time.Second
	sshPort     = 22
)

// newSession opens a session with the server. Only https, ssh and http exist: no file, no git
// protocol, no helper program.
func newSession(ctx context.Context, r gitwire.Request) (transport.UploadPackSession, error) {
	// go-git also takes paths and scp's host:path, which leave the scheme open.
	parsed, err := url.Parse(r.URL)
	if err != nil {
		return nil, fault(gitwire.Refused, "the URL: %v", err)
	}
	if !slices.Contains([]string{"https", "ssh", "http"}, parsed.Scheme) {
		return nil, fault(gitwire.Refused, "the URL's scheme is %q: use https or ssh", parsed.Scheme)
	}
	endpoint, err := transport.NewEndpoint(r.URL)
	if err != nil {
		return nil, fault(gitwire.Refused, "the URL: %v", err)
	}
	if endpoint.Password != "" || (endpoint.User != "" && endpoint.Protocol != "ssh") {
		return nil, fault(gitwire.Refused, "the URL has credentials: put them into a secret")
	}
	allowed := addresses{extra: r.Addresses}
	if parsed.Scheme == "ssh" {
		return newSSHSession(ctx, endpoint, r.Credentials, allowed)
	}
	return newHTTPSession(endpoint, r.Credentials, allowed)
}

func newHTTPSession(
	endpoint *transport.Endpoint, credentials gitwire.Credentials, allowed addresses,
) (transport.UploadPackSession, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if credentials.Authorities != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(credentials.Authorities)) {
			return nil, fault(gitwire.Unauthorized, "the secret's ca.crt has no certificate in PEM")
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout, ControlContext: allowed.control}
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  2 * time.Minute, // a server may count objects first
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
	}
	var auth transport.AuthMethod
	if credentials.Password != "" {
		if endpoint.Protocol != "https" {
			return nil, fault(gitwire.Refused, "credentials are not sent over http: use https")
		}
		auth = &githttp.BasicAuth{Username: credentials.Username, Password: credentials.Password}
		if credentials.Username == "" {
			// Servers that take tokens want some name, and look at the token only.
			auth = &githttp.BasicAuth{Username: "git", Password: credentials.Password}
		}
	}
	options := &githttp.ClientOptions{RedirectPolicy: githttp.NoFollowRedirects}
	return githttp.NewClientWithOptions(client, options).NewUploadPackSession(endpoint, auth)
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
	auth, err := gitssh.NewPublicKeys(user, []byte(credentials.PrivateKey), "")
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
	auth.HostKeyCallback = known
	address, err := allowed.resolve(ctx, endpoint.Host)
	if err != nil {
		return nil, err
	}
	dialled := *endpoint
	dialled.Host, dialled.Port = address.String(), port
	// No file of the container's user says to which host a name leads.
	gitssh.DefaultSSHConfig = nil
	config := &ssh.ClientConfig{Timeout: dialTimeout, HostKeyAlgorithms: algorithms}
	return gitssh.NewClient(config).NewUploadPackSession(&dialled, auth)
}

// hostKeys verifies a server by the name in the URL. It also returns the algorithms of the keys
// that are known of it, so that the server shows one of these.
func hostKeys(known, host string, port int) (ssh.HostKeyCallback, []string, error) {
	file, err := os.CreateTemp("", "known_hosts-*")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.WriteString(known)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, nil, err
	}
	callback, err := knownhosts.New(filepath.Clean(file.Name()))
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

// addresses decides to which addresses the fetcher connects. The address counts, not the name: a
// name of the attacker may lead anywhere.
type addresses struct{ extra []netip.Prefix }

// control is called with the address before a socket connects to it.
func (a addresses) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return a.check(at.Addr())
}

func (a addresses) resolve(ctx context.Context, host string) (netip.Addr, error) {
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, fault(gitwire.Unreachable, "%v", err)
	}
	var refused error
	for _, address := range found {
		if refused = a.check(address); refused == nil {
			return address.Unmap(), nil
		}
	}
	return netip.Addr{}, refused
}

// check refuses what belongs to the node or to the cluster's own control: the node's services on
// loopback, the cloud's metadata on link-local addresses, the API server.
func (a addresses) check(address netip.Addr) error {
	address = address.Unmap().WithZone("")
	for _, network := range a.extra {
		if network.Contains(address) {
			return nil
		}
	}
	var why string
	switch {
	case address.IsLoopback():
		why = "loopback"
	case address.IsLinkLocalUnicast(), address.IsLinkLocalMulticast(), address.IsMulticast(),
		address.IsInterfaceLocalMulticast():
		why = "link-local or multicast"
	case address.IsUnspecified():
		why = "unspecified"
	default:
		return nil
	}
	return fault(gitwire.Refused, "the server's address %s is %s: a rule of gitSources must name it "+
		"in addresses", address, why)
}
