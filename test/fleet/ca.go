package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

// storedCAs is what the controller keeps in its Secret (pkg/link/certs).
type storedCAs struct {
	Authorities []storedCA `json:"authorities"`
}

type storedCA struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	Published   string `json:"published,omitempty"`
}

// longAgo is for how long nodes have to know a CA before it signs, and more.
const longAgo = 48 * time.Hour

// replaceCA has the controller go to another CA, in the steps that take it months by itself: the
// next CA is there, nodes know it, it signs, the CA before is gone. A replica that was killed
// begins with what is stored.
func (c *crash) replaceCA(ctx context.Context) error {
	sleep(ctx, c.bench.kills)
	next, err := newCA()
	if err != nil {
		return err
	}
	err = c.changeCAs(ctx, func(s *storedCAs) { s.Authorities = append(s.Authorities, next) })
	if err != nil {
		return err
	}
	err = c.wait(ctx, "a CA that nodes know", func(context.Context) (string, error) {
		known, err := os.ReadFile(filepath.Join(c.path("files"), caFile))
		if err == nil && !strings.Contains(string(known), next.Certificate) {
			return "the new CA is not published", nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	err = c.changeCAs(ctx, func(s *storedCAs) {
		published := time.Now().Add(-longAgo).UTC().Format(time.RFC3339)
		s.Authorities[len(s.Authorities)-1].Published = published
	})
	if err != nil {
		return err
	}
	// Each replica is killed, so that both sign with the new CA.
	sleep(ctx, 3*c.bench.kills)
	return c.changeCAs(ctx, func(s *storedCAs) { s.Authorities = s.Authorities[1:] })
}

// changeCAs changes what is stored.
func (c *crash) changeCAs(ctx context.Context, change func(*storedCAs)) error {
	secrets := c.client.CoreV1().Secrets(namespace)
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		secret, err := secrets.Get(ctx, caObject, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for key, value := range secret.Data {
			stored, err := decode[storedCAs](value)
			if err != nil {
				return err
			}
			change(&stored)
			if secret.Data[key], err = json.Marshal(stored); err != nil {
				return err
			}
			_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
			return err
		}
		return errors.New("the controller has stored no CA")
	})
}

// newCA is a CA as the controller makes it.
func newCA() (storedCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return storedCA{}, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "next CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return storedCA{}, fmt.Errorf("make a CA: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	return storedCA{
		Certificate: encodePEM("CERTIFICATE", certificate), Key: encodePEM("PRIVATE KEY", secret),
	}, err
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
