package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// testCA signs as cert-manager does.
type testCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t *testing.T, name string) testCA {
	t.Helper()
	ca := testCA{t: t}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
	}
	ca.cert, ca.key = ca.issue(template)
	return ca
}

// issue signs a certificate; the first one of a CA signs itself.
func (ca testCA) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fixture.Must(ca.t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	fixture.Must(ca.t, err)
	cert, err := x509.ParseCertificate(der)
	fixture.Must(ca.t, err)
	return cert, key
}

func (ca testCA) pem() []byte { return certificatePEM(ca.cert) }

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// certify puts a certificate for the controller where the controller reads it.
func (c *cluster) certify(ca testCA) {
	c.t.Helper()
	cert, key := ca.issue(&x509.Certificate{DNSNames: []string{controllerName}})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	fixture.Must(c.t, err)
	c.put("tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	c.put("tls.crt", certificatePEM(cert))
}

// callUntil makes calls on the router one after the other, and counts them. It returns when it is
// stopped, or when a call fails; then the test fails.
func (c *cluster) callUntil(stopped <-chan struct{}, calls *atomic.Int64) {
	for n := 0; ; n++ {
		select {
		case <-stopped:
			return
		default:
		}
		v, err := c.create("pvc-"+strconv.Itoa(n), nil)
		if err == nil {
			_, err = csi.NewControllerClient(c.sidecar).DeleteVolume(c.t.Context(),
				&csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()})
		}
		if err != nil {
			c.t.Errorf("call %d failed: %v", n, err)
			return
		}
		calls.Add(1)
		time.Sleep(time.Millisecond) // the other processes of the test need the processor, too
	}
}

// issuerOfTheCertificate is the CA of the certificate that the controller shows.
func (c *cluster) issuerOfTheCertificate() string {
	dialer := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // the certificate is only looked at
		NextProtos:         []string{"csi-hostpath-link"},
	}}
	conn, err := dialer.DialContext(c.t.Context(), "tcp", c.links)
	if err != nil {
		return ""
	}
	defer conn.Close()
	secure, _ := conn.(*tls.Conn)
	return secure.ConnectionState().PeerCertificates[0].Issuer.CommonName
}

// linkedSince is when the node's link was made; it changes with each link.
func (c *cluster) linkedSince() string {
	_, text := c.page("/statusz")
	_, since, _ := strings.Cut(text, "linked since ")
	since, _, _ = strings.Cut(since, " ")
	return since
}

// waitForLinks waits for some new links.
func (c *cluster) waitForLinks(count int) {
	c.t.Helper()
	for range count {
		before := c.linkedSince()
		fixture.Eventually(c.t, "the node makes a new link", func() bool {
			now := c.linkedSince()
			return now != "" && now != before
		})
	}
}

// The order is that of every change of a CA: nodes know both, then the controller shows the
// certificate of the new one, then nodes forget the old one.
func TestCertificatesAndTokensChangeWithoutOneFailedCall(t *testing.T) {
	c := newCluster(t, "--link-renew-after=2s")
	c.args = append(c.args, "--tls-cert="+c.file("tls.crt"), "--tls-key="+c.file("tls.key"))
	before, after := newTestCA(t, "before"), newTestCA(t, "after")
	c.certify(before)
	c.put("ca.crt", before.pem())
	pod := c.pod("driver-1", nodeName, nodeAccount)
	c.putToken(pod, controllerName)
	c.startController()
	c.driver.Start()
	c.waitLinked()

	c.eventuallyCreate("first", nil) // when the pool is open

	stopped, ended := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	go func() {
		defer close(ended)
		c.callUntil(stopped, &calls)
	}()
	c.put("ca.crt", append(before.pem(), after.pem()...))
	c.waitForLinks(1)
	c.certify(after)
	c.putToken(pod, controllerName)
	fixture.Eventually(t, "the controller shows the new certificate",
		func() bool { return c.issuerOfTheCertificate() == "after" })
	c.waitForLinks(1)
	c.put("ca.crt", after.pem())
	c.waitForLinks(3)
	close(stopped)
	<-ended
	if calls.Load() < 100 {
		t.Errorf("only %d calls were made meanwhile", calls.Load())
	}
	if log := c.driver.Log(); strings.Contains(log, "failed; trying again") {
		t.Errorf("a link failed:\n%s", log)
	}
	t.Logf("%d volumes were made and deleted meanwhile", calls.Load())
}
