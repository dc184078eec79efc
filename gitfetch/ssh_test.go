package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/csi-hostpath/csi-hostpath/gitfetch/internal/sshserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// sshServer runs git-upload-pack for whoever has the client's key.
type sshServer struct {
	address    string
	hostKey    ssh.PublicKey
	privateKey string // the client's, in PEM
}

func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

func newSSHServer(t *testing.T) sshServer {
	t.Helper()
	return newSSHServerOf(t, nil)
}

// newSSHServerOf runs the function instead of git-upload-pack.
func newSSHServerOf(t *testing.T, hostile func(ssh.Channel) error) sshServer {
	t.Helper()
	host, _ := newKey(t)
	client, privateKey := newKey(t)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := sshserver.Server{HostKey: host, Client: client.PublicKey(), Root: "/", Hostile: hostile}
	ctx, ended := context.WithoutCancel(t.Context()), make(chan error)
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		_ = listener.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return sshServer{
		address: listener.Addr().String(), hostKey: host.PublicKey(), privateKey: privateKey,
	}
}

func (s sshServer) request(r *repository) gitwire.Request {
	q := r.request()
	q.URL, q.Credentials = s.url(r.dir), s.credentials()
	return q
}

func (s sshServer) url(path string) string { return "ssh://git@" + s.address + path }

func (s sshServer) credentials() gitwire.Credentials {
	return gitwire.Credentials{
		PrivateKey: s.privateKey,
		KnownHosts: knownhosts.Line([]string{knownhosts.Normalize(s.address)}, s.hostKey) + "\n",
	}
}

func TestSSH(t *testing.T) {
	r, server := newRepository(t), newSSHServer(t)
	first := r.commit(map[string]string{"a": "1"})
	cache, q := t.TempDir(), server.request(r)
	if a, headers, _ := ask(t, cache, q); a.Commit != first || len(headers) != 1 {
		t.Fatalf("by SSH: %+v", a)
	}
	q.Base = first
	second := r.commit(map[string]string{"b": "2"})
	if a, headers, _ := ask(t, cache, q); a.Commit != second || a.Base != first || len(headers) != 2 {
		t.Errorf("after a push: %+v", a)
	}

	another, anothersKey := newKey(t)
	for name, change := range map[string]func(*gitwire.Credentials){
		"another client": func(c *gitwire.Credentials) { c.PrivateKey = anothersKey },
		"no key":         func(c *gitwire.Credentials) { c.PrivateKey = "" },
		"broken key":     func(c *gitwire.Credentials) { c.PrivateKey = "hunter2" },
		"no known hosts": func(c *gitwire.Credentials) { c.KnownHosts = "" },
		"another server": func(c *gitwire.Credentials) {
			name := knownhosts.Normalize(server.address)
			c.KnownHosts = knownhosts.Line([]string{name}, another.PublicKey())
		},
		"unknown server": func(c *gitwire.Credentials) {
			c.KnownHosts = knownhosts.Line([]string{"git.example.com"}, server.hostKey)
		},
	} {
		q := server.request(r)
		change(&q.Credentials)
		a, _, _ := ask(t, cache, q)
		if a.Fault != gitwire.Unauthorized || strings.Contains(a.Message, "hunter2") {
			t.Errorf("%s: %+v", name, a)
		}
	}
	q = server.request(r)
	q.URL += "/none"
	if a, _, _ := ask(t, cache, q); a.Fault != gitwire.NotFound {
		t.Errorf("no repository: %+v", a)
	}
	q = server.request(r)
	q.Addresses = nil
	if a, _, _ := ask(t, cache, q); a.Fault != gitwire.Refused {
		t.Errorf("a loopback address: %+v", a)
	}
}
