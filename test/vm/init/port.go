package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

// port is the way out of the machine.
type port struct {
	mu      sync.Mutex // programs speak while they run
	encoder *json.Encoder
}

// openPort opens the only virtio serial port.
func openPort() (*port, error) {
	ports, err := filepath.Glob("/dev/vport*")
	if err != nil || len(ports) != 1 {
		return nil, fmt.Errorf("%d virtio serial ports, want 1: %w", len(ports), err)
	}
	f, err := os.OpenFile(ports[0], os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	return &port{encoder: json.NewEncoder(f)}, nil
}

// send returns when the machine's owner has the event. Where that fails nobody is left to be told.
func (p *port) send(event job.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.encoder.Encode(event); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
}
