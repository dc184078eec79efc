// Package sshserver serves git repositories by SSH, for tests. It runs git's own git-upload-pack.
package sshserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Server has one client, the user "git", who reads and cannot write.
type Server struct {
	HostKey ssh.Signer
	Client  ssh.PublicKey
	// Root is the directory of the repositories: clients name them by their paths below it.
	Root string
	// Hostile is what runs instead of git-upload-pack, if it is set.
	Hostile func(ssh.Channel) error
}

// Serve answers clients until the listener is closed or ctx ends.
func (s Server) Serve(ctx context.Context, listener net.Listener) error {
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() != "git" || !bytes.Equal(key.Marshal(), s.Client.Marshal()) {
				return nil, errors.New("no such user")
			}
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(s.HostKey)
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go s.serve(ctx, conn, config)
	}
}

func (s Server) serve(ctx context.Context, conn net.Conn, config *ssh.ServerConfig) {
	defer func() { _ = conn.Close() }()
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
			var payload struct{ Command string }
			if q.Type != "exec" || ssh.Unmarshal(q.Payload, &payload) != nil {
				_ = q.Reply(false, nil)
				continue
			}
			_ = q.Reply(true, nil)
			s.run(ctx, channel, payload.Command)
		}
	}
}

// run is git-upload-pack, whatever program the client names.
func (s Server) run(ctx context.Context, channel ssh.Channel, command string) {
	defer func() { _ = channel.Close() }()
	if s.Hostile != nil {
		_ = s.Hostile(channel)
		return
	}
	_, argument, _ := strings.Cut(command, " ")
	path := filepath.Join(s.Root, filepath.Clean("/"+strings.Trim(argument, "'")))
	cmd := exec.CommandContext(ctx, "git", "upload-pack", path)
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	status := struct{ Status uint32 }{1}
	// Run with channel as Stdin would wait for the end of what the client sends.
	if in, err := cmd.StdinPipe(); err == nil {
		go func() { _, _ = io.Copy(in, channel); _ = in.Close() }()
		if cmd.Run() == nil {
			status.Status = 0
		}
	}
	_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
}
