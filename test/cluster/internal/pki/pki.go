// Package pki makes the certificates of one cluster.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// validity is longer than any cluster lives, and backdated for clocks that jump.
const (
	validity = 365 * 24 * time.Hour
	backdate = time.Hour
)

// Authority signs certificates and keeps them in one folder.
type Authority struct {
	folder      string
	certificate *x509.Certificate
	key         crypto.Signer
}

// Subject is whom a certificate is for.
type Subject struct {
	// CommonName is the user name for Kubernetes, Organization its group.
	CommonName   string
	Organization string
	// Names and IPs are what a server is reached as; none for a client only.
	Names []string
	IPs   []net.IP
}

// NewAuthority makes folder with a new authority, as ca.crt and ca.key.
func NewAuthority(folder string) (*Authority, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	template, err := template(Subject{CommonName: "csi-hostpath-cluster"})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &Authority{folder: folder, certificate: template, key: key}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority: %w", err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, a.write("ca", der, key)
}

// Issue writes name.crt and name.key for the subject.
func (a *Authority) Issue(name string, subject Subject) error {
	template, err := template(subject)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("sign the certificate of %s: %w", subject.CommonName, err)
	}
	return a.write(name, der, key)
}

// Certificate and Key return where Issue put a pair; "ca" is the authority's.
func (a *Authority) Certificate(name string) string { return filepath.Join(a.folder, name+".crt") }

// Key returns the path of a private key.
func (a *Authority) Key(name string) string { return filepath.Join(a.folder, name+".key") }

// KubeconfigPath returns where the kubeconfig of a pair belongs.
func (a *Authority) KubeconfigPath(name string) string {
	return filepath.Join(a.folder, name+".kubeconfig")
}

func template(subject Subject) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	name := pkix.Name{CommonName: subject.CommonName}
	if subject.Organization != "" {
		name.Organization = []string{subject.Organization}
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      name,
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(validity),
		DNSNames:     subject.Names,
		IPAddresses:  subject.IPs,
	}, nil
}

func (a *Authority) write(name string, der []byte, key *ecdsa.PrivateKey) error {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(a.Key(name), "PRIVATE KEY", secret); err != nil {
		return err
	}
	return writePEM(a.Certificate(name), "CERTIFICATE", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
