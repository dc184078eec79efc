package certs

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// fileInterval is the shortest time between two looks at the files.
const fileInterval = 10 * time.Second

// Files shows a certificate that others put into files, such as cert-manager. It is read again when
// the files have changed. Its methods may be called at the same time.
type Files struct {
	certFile, keyFile string
	logger            klog.Logger

	mu        sync.Mutex
	looked    time.Time
	cert, key []byte
	current   *tls.Certificate
}

// NewFiles reads a certificate with those between it and its CA (PEM), and its key (PEM).
func NewFiles(certFile, keyFile string, logger klog.Logger) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, logger: logger}
	return f, f.read()
}

// GetCertificate is for tls.Config. It returns the last certificate that could be read.
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= fileInterval {
		f.looked = now
		// The two files may not belong together while they are exchanged.
		if err := f.read(); err != nil {
			f.logger.Error(err, "Cannot read the controller's certificate; the one before stays")
		}
	}
	return f.current, nil
}

// Until is how long the certificate is valid.
func (f *Files) Until() time.Time {
	c, err := f.GetCertificate(nil)
	if err != nil {
		return time.Time{}
	}
	return c.Leaf.NotAfter
}

// Ready is nil: NewFiles has read a certificate.
func (f *Files) Ready() error { return nil }

func (f *Files) read() error {
	cert, err := os.ReadFile(f.certFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(f.keyFile)
	if err != nil {
		return err
	}
	if bytes.Equal(cert, f.cert) && bytes.Equal(key, f.key) {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", f.certFile, f.keyFile, err)
	}
	f.cert, f.key, f.current = cert, key, &pair
	return nil
}
