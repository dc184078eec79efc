// Program gitserver serves the git repositories of a directory over HTTPS and SSH, for the tests on
// a cluster: read-only, to one user. git's own programs do the work.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/csi-hostpath/csi-hostpath/gitfetch/internal/sshserver"
)

const (
	httpsPort = "8443"
	sshPort   = "2222"
)

// state is what clients have to know, and the server's own keys. The file of a server that ran
// before is used again: after a restart it is the same server.
type state struct {
	// HTTPS and SSH are the URLs of the directory, with a slash at the end.
	HTTPS string `json:"https"`
	SSH   string `json:"ssh"`
	// Password is what HTTPS wants, of any user. The others are in PEM, and as known_hosts has it.
	Password      string `json:"password"`
	Certificate   string `json:"certificate"`
	ClientKey     string `json:"clientKey"`
	KnownHosts    string `json:"knownHosts"`
	ServerKey     string `json:"serverKey"`
	ServerHostKey string `json:"serverHostKey"`
}

func main() {
	address := flag.String("address", "", "the IP address to listen on")
	root := flag.String("root", "", "the directory of the repositories")
	file := flag.String("state", "", "file of URLs and keys; it is made if there is none")
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // it ends with whoever started it
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := run(ctx, *address, *root, *file); err != nil {
		fmt.Fprintln(os.Stderr, "gitserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, address, root, file string) error {
	var listen net.ListenConfig
	web, err := listen.Listen(ctx, "tcp", net.JoinHostPort(address, httpsPort))
	if err != nil {
		return err
	}
	shell, err := listen.Listen(ctx, "tcp", net.JoinHostPort(address, sshPort))
	if err != nil {
		return err
	}
	s, err := readState(address, file)
	if err != nil {
		return err
	}
	// The caller then knows that the server listens.
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- serveSSH(ctx, s, root, shell) }()
	go func() { ended <- serveHTTPS(ctx, s, root, web) }()
	return errors.Join(<-ended, <-ended)
}

func readState(address, file string) (s state, err error) {
	content, err := os.ReadFile(file)
	if err == nil {
		return s, json.Unmarshal(content, &s)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if s, err = newState(address); err != nil {
		return s, err
	}
	if content, err = json.Marshal(s); err != nil {
		return s, err
	}
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return s, err
	}
	return s, os.Rename(file+".new", file)
}

func newState(address string) (s state, err error) {
	s.HTTPS = "https://" + net.JoinHostPort(address, httpsPort) + "/"
	s.SSH = "ssh://git@" + net.JoinHostPort(address, sshPort) + "/"
	s.Password = rand.Text()
	hostKey, host, err := newKey()
	if err != nil {
		return s, err
	}
	clientKey, _, err := newKey()
	if err != nil {
		return s, err
	}
	s.ServerHostKey, s.ClientKey = hostKey, clientKey
	name := knownhosts.Normalize(net.JoinHostPort(address, sshPort))
	s.KnownHosts = knownhosts.Line([]string{name}, host.PublicKey()) + "\n"
	s.Certificate, s.ServerKey, err = newCertificate(net.ParseIP(address))
	return s, err
}

func newKey() (text string, signer ssh.Signer, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, err
	}
	if signer, err = ssh.NewSignerFromKey(key); err != nil {
		return "", nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return "", nil, err
	}
	return string(pem.EncodeToMemory(block)), signer, nil
}

// newCertificate is signed by itself, so it is its CA, too.
func newCertificate(ip net.IP) (certificate, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "git"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:           []net.IP{ip},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return "", "", err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
	return certificate, key, nil
}

func serveSSH(ctx context.Context, s state, root string, listener net.Listener) error {
	host, err := ssh.ParsePrivateKey([]byte(s.ServerHostKey))
	if err != nil {
		return err
	}
	client, err := ssh.ParsePrivateKey([]byte(s.ClientKey))
	if err != nil {
		return err
	}
	server := sshserver.Server{HostKey: host, Client: client.PublicKey(), Root: root}
	return server.Serve(ctx, listener)
}

// serveHTTPS prints the path of each repository that a pack is asked of.
func serveHTTPS(ctx context.Context, s state, root string, listener net.Listener) error {
	certificate, err := tls.X509KeyPair([]byte(s.Certificate), []byte(s.ServerKey))
	if err != nil {
		return err
	}
	backend := &cgi.Handler{
		Path: "/usr/lib/git-core/git-http-backend",
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	}
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate},
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, password, _ := r.BasicAuth()
			if subtle.ConstantTimeCompare([]byte(password), []byte(s.Password)) == 0 {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			if repository, ok := strings.CutSuffix(r.URL.Path, "/git-upload-pack"); ok {
				fmt.Println(repository)
			}
			backend.ServeHTTP(w, r)
		}),
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
