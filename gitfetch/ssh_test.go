package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

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
	host, _ := newKey(t)
	client, privateKey := newKey(t)
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() != "git" || string(key.Marshal()) != string(client.PublicKey().Marshal()) {
				return nil, net.ErrClosed
			}
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(host)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveSSH(t, conn, config)
		}
	}()
	return sshServer{
		address: listener.Addr().String(), hostKey: host.PublicKey(), privateKey: privateKey,
	}
}

func serveSSH(t *testing.T, conn net.Conn, config *ssh.ServerConfig) {
	t.Helper()
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return // the client gave up
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		for q := range requests {
			if q.Type != "exec" {
				_ = q.Reply(false, nil)
				continue
			}
			_ = q.Reply(true, nil)
			var payload struct{ Command string }
			if err := ssh.Unmarshal(q.Payload, &payload); err != nil {
				t.Error(err)
			}
			path := strings.Trim(strings.TrimPrefix(payload.Command, "git-upload-pack "), "'")
			cmd := exec.CommandContext(t.Context(), "git", "upload-pack", path)
			cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
			// Run would wait for the end of what the client sends.
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Error(err)
			}
			go func() { _, _ = io.Copy(in, channel); _ = in.Close() }()
			status := struct{ Status uint32 }{}
			if err := cmd.Run(); err != nil {
				status.Status = 1
			}
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
			_ = channel.Close()
		}
	}
}

func (s sshServer) request(r *repository) gitwire.Request {
	q := r.request()
	q.URL = "ssh://git@" + s.address + r.dir
	q.Credentials = gitwire.Credentials{
		PrivateKey: s.privateKey,
		KnownHosts: knownhosts.Line([]string{knownhosts.Normalize(s.address)}, s.hostKey) + "\n",
	}
	return q
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
