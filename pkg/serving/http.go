package serving

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// requestTimeout bounds how long a request may take to arrive.
	requestTimeout = 5 * time.Second
	// writeTimeout bounds how long a client may take to read its answer.
	writeTimeout = 30 * time.Second
	// maxHeaderBytes bounds a request with its headers; those of kubelet and of scrapers have some
	// hundred bytes.
	maxHeaderBytes = 8 << 10
	// maxHTTPConnections: kubelet's probes and the scrapers of metrics have one for each request.
	maxHTTPConnections = 64
	// httpSocketBytes bounds what the kernel keeps for an HTTP connection in each direction; it
	// doubles the number (socket(7)).
	httpSocketBytes = 16 << 10
)

// NewHTTPServer returns a server of pages for probes and scrapers. Any pod of the cluster may send
// it requests, so their size and time are bounded.
func NewHTTPServer(pages http.Handler) *http.Server {
	server := &http.Server{
		Handler:           pages,
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       requestTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	// Connections that wait for another request would keep those of others out.
	server.SetKeepAlivesEnabled(false)
	return server
}

// Text answers a request with plain text.
func Text(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // When the client has gone, nothing can be done.
}

// HTTP serves on the address of --metrics-address until the context ends. An empty address is none.
func HTTP(ctx context.Context, address string, server *http.Server) error {
	return serveHTTP(ctx, "metrics", address, server)
}

// Status serves on the address of --status-address, which is a loopback address, until the context
// ends. An empty address is none.
func Status(ctx context.Context, address string, server *http.Server) error {
	return serveHTTP(ctx, "status", address, server)
}

// serveHTTP serves on the address of the flag for what is served.
func serveHTTP(ctx context.Context, what, address string, server *http.Server) error {
	if address == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{Control: boundSocket}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("--%s-address: %w", what, err)
	}
	listener = BoundClosingOldest(ctx, listener, what, maxHTTPConnections)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // Serve returns its errors
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", what, err)
	}
	return nil
}

// boundSocket keeps the kernel from buffering megabytes for each connection. It sets the options of
// a TCP listener, which its connections inherit.
func boundSocket(_, _ string, conn syscall.RawConn) (err error) {
	controlErr := conn.Control(func(fd uintptr) {
		for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, httpSocketBytes)
			}
		}
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
