// Package certs gives the controller the certificate that it shows to nodes: of a CA that the
// installation makes by itself and replaces in time, or from files.
package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

const (
	// caLife is how long a CA's certificate is valid. The next CA is made when a third of it is left.
	caLife = 365 * 24 * time.Hour
	// publishedFor is how long nodes have known a CA before it signs. kubelet brings a ConfigMap into
	// running pods within minutes, but a node may have been cut off.
	publishedFor = 24 * time.Hour
	// leafLife is how long a serving certificate is valid. The next one is made at half of it.
	leafLife = 24 * time.Hour
	// skew is how much a node's clock may be slow.
	skew = time.Hour

	// checkInterval is the time between two looks at the store, and retryInterval after a failure.
	checkInterval = 10 * time.Minute
	retryInterval = 10 * time.Second
	// conflictInterval is what a replica waits that was not the first.
	conflictInterval = time.Second
	// storeTimeout bounds one look at the store.
	storeTimeout = 30 * time.Second
)

// ErrConflict says that somebody else has saved in the meantime.
var ErrConflict = errors.New("the CA was saved by another replica in the meantime")

// errNone: no CA could be loaded or made yet.
var errNone = errors.New("the controller has no certificate yet")

// Store keeps the CA for all replicas, and publishes its certificates to the nodes.
type Store interface {
	// Load returns what was saved last, with its version. Data is empty if nothing was saved, and then
	// the version is still valid for Save. Data holds private keys.
	Load(ctx context.Context) (data []byte, version string, err error)
	// Save saves data if nobody has saved since the version was loaded. Errors: ErrConflict, wrapped
	// or not, if somebody has; then nothing was saved. With Kubernetes the version is the Secret's
	// resourceVersion, and a conflict is what apierrors.IsConflict says of the Update.
	Save(ctx context.Context, data []byte, version string) error
	// Publish has nodes trust these certificates (PEM) and no others. It is called often, and writes
	// only what differs from what is published. It returns when the write has been acknowledged.
	Publish(ctx context.Context, bundle []byte) error
}

// Options of an Issuer.
type Options struct {
	// Store is shared by all replicas. Required.
	Store Store
	// ServerName is the only name for which the CA signs. Required.
	ServerName string
	// Logger takes the log. Default: klog.Background().
	Logger klog.Logger
}

// Issuer makes the serving certificate of this replica, and takes its part in replacing the CA. Its
// methods may be called at the same time.
type Issuer struct {
	opts    Options
	current atomic.Pointer[tls.Certificate]
	signer  atomic.Pointer[x509.Certificate] // of the CA that has signed the current one

	// What only Run uses.
	loaded   state // what was in the store last: data, of a version
	data     []byte
	version  string
	renew    time.Time // when the next serving certificate is due
	signedBy authority // whose the current one is
}

// NewIssuer returns an issuer without a certificate: Run gets one.
func NewIssuer(opts Options) *Issuer {
	if opts.Logger.IsZero() {
		opts.Logger = klog.Background()
	}
	return &Issuer{opts: opts}
}

// GetCertificate is for tls.Config. Errors: there is no certificate yet.
func (i *Issuer) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := i.current.Load(); c != nil {
		return c, nil
	}
	return nil, errNone
}

// Ready says whether there is a certificate. Errors: there is none yet.
func (i *Issuer) Ready() error {
	_, err := i.GetCertificate(nil)
	return err
}

// Run keeps the certificate valid until the context ends. While the store fails, it makes serving
// certificates of the CA that it knows.
func (i *Issuer) Run(ctx context.Context) {
	lastLogged := ""
	for ctx.Err() == nil {
		wait := checkInterval
		err := errors.Join(i.refresh(ctx), i.mint(time.Now()))
		switch {
		case err == nil:
			lastLogged = ""
		case errors.Is(err, ErrConflict):
			wait = conflictInterval
		default:
			wait = retryInterval
			if text := err.Error(); text != lastLogged && ctx.Err() == nil {
				lastLogged = text
				i.opts.Logger.Error(err, "Cannot look after the controller's certificate; trying again",
					"certificateUntil", i.Until())
			}
		}
		timer := time.NewTimer(wait*3/4 + rand.N(wait/4)) //nolint:gosec // replicas take turns
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// Until is how long the serving certificate is valid. Zero: there is none.
func (i *Issuer) Until() time.Time {
	if c := i.current.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// AuthorityUntil is how long the CA is valid that has signed it. Zero: there is none.
func (i *Issuer) AuthorityUntil() time.Time {
	if c := i.signer.Load(); c != nil {
		return c.NotAfter
	}
	return time.Time{}
}

// refresh loads the CA, makes the next one when that is due, and publishes the certificates of all.
// The order matters: a CA is published after it was saved, and signs long after it was published.
func (i *Issuer) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := i.load(ctx); err != nil {
		return err
	}
	next, err := i.loaded.rotated(i.opts.ServerName, time.Now())
	if err != nil {
		return err
	}
	if err := i.save(ctx, next); err != nil {
		return err
	}
	if err := i.opts.Store.Publish(ctx, i.loaded.bundle()); err != nil {
		return fmt.Errorf("publish the CA's certificate to nodes: %w", err)
	}
	return i.save(ctx, i.loaded.published(time.Now()))
}

// load reads what is in the store.
func (i *Issuer) load(ctx context.Context) error {
	data, version, err := i.opts.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("load the CA: %w", err)
	}
	i.version = version
	if bytes.Equal(data, i.data) {
		return nil
	}
	s, err := parse(data)
	if err != nil {
		return fmt.Errorf("load the CA: %w: delete what is stored, and another CA is made", err)
	}
	i.loaded, i.data = s, data
	return nil
}

// save saves a state if it differs from what is in the store.
func (i *Issuer) save(ctx context.Context, s state) error {
	if s.equal(i.loaded) {
		return nil
	}
	if err := i.opts.Store.Save(ctx, s.encode(), i.version); err != nil {
		return fmt.Errorf("save the CA: %w", err)
	}
	return i.load(ctx)
}

// mint makes the serving certificate when it is due, or when its CA was replaced by hand.
func (i *Issuer) mint(now time.Time) error {
	if now.Before(i.renew) && i.loaded.has(i.signedBy) {
		return nil
	}
	signer, ok := i.loaded.signer(now)
	if !ok {
		return nil
	}
	c, err := signer.sign(i.opts.ServerName, now)
	if err != nil {
		return err
	}
	i.signedBy = signer
	i.renew = now.Add(c.Leaf.NotAfter.Sub(now) / 2)
	i.signer.Store(signer.certificate)
	i.current.Store(c)
	i.opts.Logger.V(2).Info("Made a certificate for the controller", "until", c.Leaf.NotAfter)
	return nil
}
