package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// authority is a CA.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	published   time.Time // since when nodes know it; zero: perhaps not yet
}

// state is what the replicas share: the CAs, the oldest first.
type state struct {
	authorities []authority
}

// The stored form of a state.
type (
	storedState struct {
		Authorities []storedAuthority `json:"authorities"`
	}
	storedAuthority struct {
		Certificate string `json:"certificate"` // PEM
		Key         string `json:"key"`         // PEM, PKCS #8
		Published   string `json:"published,omitempty"`
	}
)

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// encode is the stored form. The same state has the same form.
func (s state) encode() []byte {
	if len(s.authorities) == 0 {
		return nil
	}
	var stored storedState
	for _, a := range s.authorities {
		key, err := x509.MarshalPKCS8PrivateKey(a.key)
		if err != nil {
			panic(err) // it is a key on P-256
		}
		one := storedAuthority{
			Certificate: encodePEM(certificateBlock, a.certificate.Raw),
			Key:         encodePEM(keyBlock, key),
		}
		if !a.published.IsZero() {
			one.Published = a.published.UTC().Format(time.RFC3339)
		}
		stored.Authorities = append(stored.Authorities, one)
	}
	data, err := json.Marshal(stored)
	if err != nil {
		panic(err) // it consists of strings
	}
	return data
}

func encodePEM(block string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der}))
}

// parse reads the stored form; nothing is a state without CAs.
func parse(data []byte) (state, error) {
	var stored storedState
	if len(data) == 0 {
		return state{}, nil
	}
	if err := json.Unmarshal(data, &stored); err != nil {
		return state{}, err
	}
	var s state
	for n, one := range stored.Authorities {
		a, err := one.parse()
		if err != nil {
			return state{}, fmt.Errorf("CA %d: %w", n, err)
		}
		s.authorities = append(s.authorities, a)
	}
	return s, nil
}

func (o storedAuthority) parse() (a authority, err error) {
	pair, err := tls.X509KeyPair([]byte(o.Certificate), []byte(o.Key))
	if err != nil {
		return a, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return a, errors.New("the key is not of ECDSA")
	}
	a = authority{certificate: pair.Leaf, key: key}
	if o.Published != "" {
		a.published, err = time.Parse(time.RFC3339, o.Published)
	}
	return a, err
}

// rotated is the state without CAs that have expired, and with the next one when that is due.
func (s state) rotated(serverName string, now time.Time) (state, error) {
	valid := s.valid(now)
	if n := len(valid); n > 0 && valid[n-1].certificate.NotAfter.Sub(now) > caLife/3 {
		return state{valid}, nil
	}
	a, err := newAuthority(serverName, now)
	if err != nil {
		return state{}, fmt.Errorf("make a CA: %w", err)
	}
	return state{append(valid, a)}, nil
}

// valid lists the CAs that have not expired.
func (s state) valid(now time.Time) []authority {
	return slices.DeleteFunc(slices.Clone(s.authorities), func(a authority) bool {
		return !now.Before(a.certificate.NotAfter)
	})
}

// published is the state in which nodes know all CAs.
func (s state) published(now time.Time) state {
	known := slices.Clone(s.authorities)
	for n := range known {
		if known[n].published.IsZero() {
			known[n].published = now.Truncate(time.Second)
		}
	}
	return state{known}
}

func (a authority) equal(b authority) bool {
	return a.certificate.Equal(b.certificate) && a.published.Equal(b.published)
}

func (s state) equal(other state) bool {
	return slices.EqualFunc(s.authorities, other.authorities, authority.equal)
}

// has says whether a CA is in the state.
func (s state) has(a authority) bool {
	return slices.ContainsFunc(s.authorities, func(b authority) bool {
		return a.certificate.Equal(b.certificate)
	})
}

// bundle has the certificates of all CAs (PEM).
func (s state) bundle() []byte {
	var b bytes.Buffer
	for _, a := range s.authorities {
		b.WriteString(encodePEM(certificateBlock, a.certificate.Raw))
	}
	return b.Bytes()
}

// signer is the newest CA that nodes have known for long or, if there is none, the oldest: the
// first CA of an installation signs at once. There is none while no CA was loaded.
func (s state) signer(now time.Time) (authority, bool) {
	valid := s.valid(now)
	for _, a := range slices.Backward(valid) {
		if !a.published.IsZero() && now.Sub(a.published) >= publishedFor {
			return a, true
		}
	}
	if len(valid) == 0 {
		return authority{}, false
	}
	return valid[0], true
}

func newAuthority(serverName string, now time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: serverName + " CA"},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		// Whoever gets the key can still be nobody but the controller.
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{serverName},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	return authority{certificate: certificate, key: key}, err
}

// sign makes a serving certificate, which does not outlive its CA.
func (a authority) sign(serverName string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	until := now.Add(leafLife)
	if a.certificate.NotAfter.Before(until) {
		until = a.certificate.NotAfter
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: serverName},
		DNSNames:    []string{serverName},
		NotBefore:   now.Add(-skew),
		NotAfter:    until,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
