package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
)

const serverName = "csi-hostpath-controller"

// memory is a Store of a cluster that has a Secret and a ConfigMap.
type memory struct {
	mu      sync.Mutex
	data    []byte
	version int
	bundle  []byte
	saves   int
	fail    error
}

func (m *memory) Load(context.Context) ([]byte, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data, strconv.Itoa(m.version), m.fail
}

func (m *memory) Save(_ context.Context, data []byte, version string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if version != strconv.Itoa(m.version) {
		return fmt.Errorf("update the Secret: %w", ErrConflict)
	}
	m.data, m.version, m.saves = data, m.version+1, m.saves+1
	return nil
}

func (m *memory) Publish(_ context.Context, bundle []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.bundle = bundle
	return nil
}

func (m *memory) published() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bundle
}

func (m *memory) set(data []byte, fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data, m.fail, m.version = data, fail, m.version+1
}

func (m *memory) breakDown(fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

// replica runs an issuer until the test ends.
func replica(t *testing.T, store Store) *Issuer {
	t.Helper()
	i := NewIssuer(Options{Store: store, ServerName: serverName})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { i.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return i
}

// handshake has a node that trusts the bundle connect to a replica.
func handshake(
	get func(*tls.ClientHelloInfo) (*tls.Certificate, error), bundle []byte,
) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	node, controller := net.Pipe()
	defer node.Close()
	defer controller.Close()
	// A pipe has no buffer: who refuses a certificate and who shows it would both write.
	if err := node.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		c := tls.Server(controller, &tls.Config{
			MinVersion: tls.VersionTLS13, GetCertificate: get, SessionTicketsDisabled: true,
		})
		served <- c.Handshake()
	}()
	client := tls.Client(node,
		&tls.Config{MinVersion: tls.VersionTLS13, ServerName: serverName, RootCAs: roots})
	err := client.Handshake()
	node.Close()
	if err != nil {
		return err
	}
	return <-served
}

// certificatesIn counts the certificates of a bundle.
func certificatesIn(bundle []byte) (n int) {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		n++
	}
	return n
}

// TestCAIsReplacedWithoutOneFailedHandshake lets two replicas run for three years. A node knows
// what was published 23 hours ago.
func TestCAIsReplacedWithoutOneFailedHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		replicas := []*Issuer{replica(t, store), replica(t, store)}
		time.Sleep(time.Minute)
		const step = 23 * time.Hour
		most := 0
		for range int(3 * caLife / step) {
			known := store.published()
			time.Sleep(step)
			for n, r := range replicas {
				if err := handshake(r.GetCertificate, known); err != nil {
					t.Fatalf("replica %d, %v: %v", n, time.Now(), err)
				}
			}
			most = max(most, certificatesIn(known))
		}
		// A CA begins when the one before it has lived for two thirds: four or five in three years. Each
		// was saved when it was made, when it was published, and when it had expired.
		if store.saves < 9 || store.saves > 16 {
			t.Errorf("%d saves in three years", store.saves)
		}
		if most != 2 {
			t.Errorf("at most %d CAs at a time, want 2", most)
		}
	})
}

func TestNewCASignsOnlyWhenNodesHaveKnownItForLong(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	s, err := state{}.rotated(serverName, now)
	if err != nil {
		t.Fatal(err)
	}
	first := s.authorities[0]
	if got, ok := s.signer(now); !ok || !got.equal(first) {
		t.Error("the first CA of an installation does not sign at once")
	}
	s = s.published(now)
	later := now.Add(caLife * 2 / 3)
	if s, err = s.rotated(serverName, later); err != nil || len(s.authorities) != 2 {
		t.Fatalf("%d CAs, %v", len(s.authorities), err)
	}
	for _, tt := range []struct {
		name string
		s    state
		at   time.Time
		want int
	}{
		{"made", s, later, 0},
		{"long not published", s, later.Add(30 * publishedFor), 0},
		{"published a moment ago", s.published(later), later.Add(publishedFor - time.Second), 0},
		{"published long ago", s.published(later), later.Add(publishedFor), 1},
	} {
		got, ok := tt.s.signer(tt.at)
		if !ok || !got.certificate.Equal(s.authorities[tt.want].certificate) {
			t.Errorf("%s: CA %d does not sign", tt.name, tt.want)
		}
	}
}

func TestReplicasThatStartTogetherHaveOneCA(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			store := &memory{}
			replicas := []*Issuer{replica(t, store), replica(t, store), replica(t, store)}
			time.Sleep(10 * time.Second)
			if n := certificatesIn(store.published()); n != 1 {
				t.Fatalf("%d CAs", n)
			}
			for n, r := range replicas {
				if err := handshake(r.GetCertificate, store.published()); err != nil {
					t.Errorf("replica %d: %v", n, err)
				}
			}
		})
	}
}

func TestCertificateOutlivesAStoreThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		r := replica(t, store)
		time.Sleep(time.Minute)
		bundle := store.published()
		store.breakDown(errors.New("the API server is away"))
		for range 10 {
			time.Sleep(24 * time.Hour)
			if err := handshake(r.GetCertificate, bundle); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestDeletedOrDamagedCAIsMadeAnewWhenItIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		r := replica(t, store)
		time.Sleep(time.Minute)
		before := store.published()
		store.set([]byte("{"), nil)
		time.Sleep(time.Hour)
		if err := handshake(r.GetCertificate, before); err != nil {
			t.Errorf("while the Secret is damaged: %v", err)
		}
		store.set(nil, nil)
		time.Sleep(time.Hour)
		if err := handshake(r.GetCertificate, store.published()); err != nil {
			t.Errorf("after the Secret was deleted: %v", err)
		}
		if err := handshake(r.GetCertificate, before); err == nil {
			t.Error("the deleted CA still signs")
		}
	})
}

func TestCASignsForNoOtherName(t *testing.T) {
	now := time.Now()
	a, err := newAuthority(serverName, now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.sign("kubernetes.default.svc", now)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	options := x509.VerifyOptions{DNSName: "kubernetes.default.svc", Roots: roots}
	if _, err := c.Leaf.Verify(options); err == nil {
		t.Error("a certificate of another name is trusted")
	}
}

func TestNothingIsShownBeforeThereIsACA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{fail: errors.New("the API server is away")}
		r := replica(t, store)
		time.Sleep(time.Hour)
		if err := r.Ready(); !errors.Is(err, errNone) {
			t.Error(err)
		}
		if !r.Until().IsZero() || !r.AuthorityUntil().IsZero() {
			t.Errorf("valid until %v, the CA until %v", r.Until(), r.AuthorityUntil())
		}
		store.set(nil, nil)
		time.Sleep(time.Minute)
		if err := r.Ready(); err != nil {
			t.Error(err)
		}
		leaf, ca := time.Until(r.Until()), time.Until(r.AuthorityUntil())
		if leaf < leafLife-2*skew || leaf > leafLife || ca < caLife-2*skew || ca > caLife {
			t.Errorf("the certificate is valid for %v, the CA for %v", leaf, ca)
		}
	})
}

func TestCertificateOfFilesIsReadAgainWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		bundle := writePair(t, certFile, keyFile)
		f, err := NewFiles(certFile, keyFile, klog.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := handshake(f.GetCertificate, bundle); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(keyFile, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := handshake(f.GetCertificate, bundle); err != nil {
			t.Errorf("while the files are exchanged: %v", err)
		}
		bundle = writePair(t, certFile, keyFile)
		time.Sleep(time.Minute)
		if err := handshake(f.GetCertificate, bundle); err != nil {
			t.Errorf("after the files were exchanged: %v", err)
		}
	})
}

func TestFilesThatDoNotBelongTogetherAreRefused(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(t, certFile, keyFile)
	writePair(t, filepath.Join(dir, "other"), keyFile)
	if _, err := NewFiles(certFile, keyFile, klog.Background()); err == nil {
		t.Error("no error")
	}
}

// writePair writes a certificate and its key, and returns the CA's certificate.
func writePair(t *testing.T, certFile, keyFile string) (bundle []byte) {
	t.Helper()
	a, err := newAuthority(serverName, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.sign(serverName, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		certFile: encodePEM(certificateBlock, c.Certificate[0]), keyFile: encodePEM(keyBlock, key),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return state{[]authority{a}}.bundle()
}
