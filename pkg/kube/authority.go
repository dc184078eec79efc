package kube

import (
	"bytes"
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/certs"
)

const (
	// authorityKey is where the Secret has what certs saves.
	authorityKey = "authority.json"
	// bundleKey is where the ConfigMap has the certificates for nodes: the chart names it.
	bundleKey = "ca.crt"
)

// Authority keeps the CA of the link in a Secret, and its certificates in a ConfigMap that nodes
// mount. Both objects exist: the chart makes them, and the controller may not.
type Authority struct {
	client                       kubernetes.Interface
	namespace, secret, configMap string
}

var _ certs.Store = (*Authority)(nil)

// NewAuthority names both objects.
func NewAuthority(
	client kubernetes.Interface, namespace, secretName, configMap string,
) *Authority {
	return &Authority{client, namespace, secretName, configMap}
}

// Load implements certs.Store.
func (a *Authority) Load(ctx context.Context) (data []byte, version string, err error) {
	s, err := a.client.CoreV1().Secrets(a.namespace).Get(ctx, a.secret, metav1.GetOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("read the Secret %s/%s: %w", a.namespace, a.secret, err)
	}
	return s.Data[authorityKey], s.ResourceVersion, nil
}

// Save implements certs.Store. What else is in the Secret stays.
func (a *Authority) Save(ctx context.Context, data []byte, version string) error {
	secrets := a.client.CoreV1().Secrets(a.namespace)
	s, err := secrets.Get(ctx, a.secret, metav1.GetOptions{})
	if err == nil && s.ResourceVersion != version {
		return certs.ErrConflict
	}
	if err == nil {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[authorityKey] = data
		_, err = secrets.Update(ctx, s, metav1.UpdateOptions{})
	}
	switch {
	case apierrors.IsConflict(err):
		return certs.ErrConflict
	case err != nil:
		return fmt.Errorf("write the Secret %s/%s: %w", a.namespace, a.secret, err)
	}
	return nil
}

// Publish implements certs.Store.
func (a *Authority) Publish(ctx context.Context, bundle []byte) error {
	configMaps := a.client.CoreV1().ConfigMaps(a.namespace)
	c, err := configMaps.Get(ctx, a.configMap, metav1.GetOptions{})
	if err == nil && bytes.Equal([]byte(c.Data[bundleKey]), bundle) {
		return nil
	}
	if err == nil {
		if c.Data == nil {
			c.Data = map[string]string{}
		}
		c.Data[bundleKey] = string(bundle)
		// With the version that was read: an older bundle never replaces a newer one that another
		// replica has published meanwhile.
		_, err = configMaps.Update(ctx, c, metav1.UpdateOptions{})
	}
	switch {
	case apierrors.IsConflict(err):
		return certs.ErrConflict
	case err != nil:
		return fmt.Errorf("write the ConfigMap %s/%s: %w", a.namespace, a.configMap, err)
	}
	return nil
}
