package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
)

// startForward passes connections on the inherited listener, a socket of the
// host's network namespace, on to address in the machine's. So the API server
// is reached from the host without a route into the cluster.
func startForward(address string) error {
	file := os.NewFile(listenerFD, "listener")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("inherited listener: %w", err)
	}
	if err := file.Close(); err != nil {
		return err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				log.Printf("forward to %s: %v", address, err)
				return
			}
			go forward(connection, address)
		}
	}()
	return nil
}

func forward(client net.Conn, address string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	var copies sync.WaitGroup
	copies.Go(func() { pass(server, client) })
	copies.Go(func() { pass(client, server) })
	copies.Wait()
}

// pass copies one direction and then tells the receiver that no more comes.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
