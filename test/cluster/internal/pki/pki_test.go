package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestIssuedCertificateIsTrustedByItsAuthority(t *testing.T) {
	authority, err := NewAuthority(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	subject := Subject{
		CommonName:   "system:node:node-1",
		Organization: "system:nodes",
		IPs:          []net.IP{net.IPv4(10, 97, 0, 1)},
	}
	if err := authority.Issue("node-1", subject); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(authority.Certificate("node-1"), authority.Key("node-1"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(authority.Certificate("ca"))
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("load the authority: %v", err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		options := x509.VerifyOptions{
			Roots:     roots,
			DNSName:   "10.97.0.1",
			KeyUsages: []x509.ExtKeyUsage{usage},
		}
		if _, err := pair.Leaf.Verify(options); err != nil {
			t.Errorf("verify for usage %v: %v", usage, err)
		}
	}
	if got := pair.Leaf.Subject.Organization; len(got) != 1 || got[0] != "system:nodes" {
		t.Errorf("organization = %v, want [system:nodes]", got)
	}
}

func TestKeysAreForRootOnly(t *testing.T) {
	authority, err := NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(authority.Key("ca"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestKubeconfigIsSelfContained(t *testing.T) {
	authority, err := NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue("admin", Subject{CommonName: "admin"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := authority.Kubeconfig(path, "https://127.0.0.1:1", "admin"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var parsed map[string]any
	if err := yaml.Unmarshal(data, &parsed); err != nil || parsed["kind"] != "Config" {
		t.Fatalf("kubeconfig %v, %v", parsed["kind"], err)
	}
	if strings.Contains(string(data), ".crt") {
		t.Fatal("the kubeconfig names a file")
	}
}
