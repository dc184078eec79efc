package gitsource

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The keys of a secret. Those of a password and of a key for SSH are the keys that Kubernetes has
// in Secrets of the types kubernetes.io/basic-auth and kubernetes.io/ssh-auth.
const (
	secretToken      = "token"
	secretUsername   = "username"
	secretPassword   = "password"
	secretPrivateKey = "ssh-privatekey"
	secretKnownHosts = "known_hosts"
	secretCA         = "ca.crt"
)

// tokenUser is who a token says it is of, where the secret says nothing: GitHub's Apps want this
// name, other servers take any.
const tokenUser = "x-access-token"

// secretKeys are the keys of a secret, in the order in which messages name them.
func secretKeys() []string {
	return []string{
		secretToken, secretUsername, secretPassword, secretPrivateKey, secretKnownHosts, secretCA,
	}
}

// parseCredentials reads the secret of a publish. What else is in the secret is left alone. Errors:
// ErrInvalid, which names keys and no values.
//
//nolint:gocyclo // a table of what does not go together
func parseCredentials(
	url volume.GitURL, secret map[string]string,
) (c gitwire.Credentials, err error) {
	given := maps.Clone(secret)
	maps.DeleteFunc(given, func(key, value string) bool {
		return value == "" || !slices.Contains(secretKeys(), key)
	})
	has := func(key string) bool { _, ok := given[key]; return ok }
	var fault string
	switch {
	case len(secret) > 0 && len(given) == 0:
		fault = "it has none of the keys " + strings.Join(secretKeys(), ", ")
	case has(secretToken) && has(secretPassword):
		fault = "it has a token and a password: keep one of them"
	case has(secretUsername) && !has(secretToken) && !has(secretPassword) && !url.IsSSH():
		fault = "it has a username and no password"
	case has(secretPassword) && !has(secretUsername):
		fault = "it has a password and no username"
	case url.IsSSH() && (has(secretToken) || has(secretPassword)):
		fault = "it has a token or a password, and SSH wants ssh-privatekey and known_hosts"
	case url.IsSSH() && !has(secretPrivateKey):
		fault = "it has no ssh-privatekey, which SSH wants"
	case url.IsSSH() && !has(secretKnownHosts):
		fault = "it has no known_hosts, without which the server proves nothing: see ssh-keyscan(1)"
	case !url.IsSSH() && has(secretPrivateKey):
		fault = "it has a key for SSH, and the URL is none of SSH"
	}
	if fault != "" {
		return c, fmt.Errorf("%w: the secret for %s: %s", volume.ErrInvalid, url, fault)
	}
	c = gitwire.Credentials{
		Username: given[secretUsername], Password: given[secretPassword],
		PrivateKey: given[secretPrivateKey], KnownHosts: given[secretKnownHosts],
		Authorities: given[secretCA],
	}
	if has(secretToken) {
		c.Password = given[secretToken]
		if c.Username == "" {
			c.Username = tokenUser
		}
	}
	return c, nil
}

// proof stands for credentials in tables. The zero proof stands for none. Nobody can try passwords
// against it, because its key lives in this process only.
type proof [sha256.Size]byte

func (s *Contents) proofOf(c gitwire.Credentials) (p proof) {
	if c == (gitwire.Credentials{}) {
		return p
	}
	mac := hmac.New(sha256.New, s.proofKey[:])
	for _, part := range []string{
		c.Username, c.Password, c.PrivateKey, c.KnownHosts, c.Authorities,
	} {
		fmt.Fprintf(mac, "%d:%s", len(part), part)
	}
	mac.Sum(p[:0])
	return p
}
