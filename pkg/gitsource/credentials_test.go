package gitsource

import (
	"errors"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestSecretIsReadOrItsFaultNamed(t *testing.T) {
	const https, ssh = "https://h/site", "ssh://h/site"
	for _, tc := range []struct {
		url    string
		secret map[string]string
		want   gitwire.Credentials
		fault  string
	}{
		{url: https},
		{
			url: https, secret: map[string]string{"token": "s3"},
			want: gitwire.Credentials{Username: "x-access-token", Password: "s3"},
		},
		{
			url: https, secret: map[string]string{"token": "s3", "username": "u", "other": "ignored"},
			want: gitwire.Credentials{Username: "u", Password: "s3"},
		},
		{
			url: https, secret: map[string]string{"username": "u", "password": "s3", "ca.crt": "pem"},
			want: gitwire.Credentials{Username: "u", Password: "s3", Authorities: "pem"},
		},
		{url: https, secret: map[string]string{"ca.crt": "pem"}, want: gitwire.Credentials{Authorities: "pem"}},
		{
			url: ssh, secret: map[string]string{"ssh-privatekey": "s3", "known_hosts": "h"},
			want: gitwire.Credentials{PrivateKey: "s3", KnownHosts: "h"},
		},
		{url: https, secret: map[string]string{"s3": "s3"}, fault: "none of the keys token"},
		{url: https, secret: map[string]string{"token": ""}, fault: "none of the keys token"},
		{url: https, secret: map[string]string{"token": "s3", "password": "s3"}, fault: "keep one"},
		{url: https, secret: map[string]string{"username": "s3"}, fault: "no password"},
		{url: https, secret: map[string]string{"password": "s3"}, fault: "no username"},
		{url: https, secret: map[string]string{"ssh-privatekey": "s3"}, fault: "the URL is none of SSH"},
		{url: ssh, fault: "no ssh-privatekey"},
		{url: ssh, secret: map[string]string{"token": "s3"}, fault: "SSH wants ssh-privatekey"},
		{url: ssh, secret: map[string]string{"known_hosts": "s3"}, fault: "no ssh-privatekey"},
		{url: ssh, secret: map[string]string{"ssh-privatekey": "s3"}, fault: "no known_hosts"},
	} {
		url, err := volume.ParseGitURL(tc.url)
		fixture.Must(t, err)
		got, err := parseCredentials(url, tc.secret)
		switch {
		case tc.fault == "" && (err != nil || got != tc.want):
			t.Errorf("%s, %d keys: %v, other credentials than wanted", tc.url, len(tc.secret), err)
		case tc.fault != "" && (!errors.Is(err, volume.ErrInvalid) ||
			!strings.Contains(err.Error(), tc.fault) || strings.Contains(err.Error(), "s3")):
			t.Errorf("%s: %v, want %v that says %q, without the secret", tc.url, err, volume.ErrInvalid,
				tc.fault)
		}
	}
}

func TestProofsTellCredentialsApart(t *testing.T) {
	none := Options{Rules: NewRules(nil)}
	s, other := New(t.Context(), none), New(t.Context(), none)
	all := []gitwire.Credentials{
		{},
		{Username: "ab"},
		{Username: "a", Password: "b"},
		{Password: "ab"},
		{PrivateKey: "ab"},
		{KnownHosts: "ab"},
		{Authorities: "ab"},
	}
	seen := make(map[proof]bool)
	for _, c := range all {
		p := s.proofOf(c)
		if seen[p] || p != s.proofOf(c) || (p == proof{}) != (c == gitwire.Credentials{}) {
			t.Errorf("the proof of %#v is not its own", c)
		}
		seen[p] = true
		if c != (gitwire.Credentials{}) && p == other.proofOf(c) {
			t.Errorf("the proof of %#v is that of another process", c)
		}
	}
}

// Contents are shared by those who may read the same.
func TestNameIsOfWhatAPodMaySee(t *testing.T) {
	base := requestOf(t, 1).Use
	change := func(f func(u *Use)) Use {
		u := base
		f(&u)
		return u
	}
	secret := proof{1}
	name := nameOf(base, proof{})
	for what, same := range map[string]volume.Name{
		"another period":    nameOf(change(func(u *Use) { u.Source.Period = 1 }), proof{}),
		"another namespace": nameOf(change(func(u *Use) { u.Namespace = "x" }), proof{}),
	} {
		if same != name {
			t.Errorf("%s makes another content", what)
		}
	}
	if nameOf(base, secret) != nameOf(base, proof{2}) {
		t.Error("another secret of the namespace makes another content")
	}
	seen := map[volume.Name]bool{name: true}
	for what, other := range map[string]volume.Name{
		"a secret": nameOf(base, secret),
		"a secret of another namespace": nameOf(
			change(func(u *Use) { u.Namespace = "x" }), secret),
		"another ref":         nameOf(change(func(u *Use) { u.Source.Ref = "x" }), proof{}),
		"another depth":       nameOf(change(func(u *Use) { u.Source.Depth = 2 }), proof{}),
		"another subPath":     nameOf(change(func(u *Use) { u.Source.SubPath = "x" }), proof{}),
		"another signal file": nameOf(change(func(u *Use) { u.Source.SignalFile = "x" }), proof{}),
		"another size":        nameOf(change(func(u *Use) { u.Source.SizeBytes++ }), proof{}),
	} {
		if seen[other] {
			t.Errorf("%s does not make another content", what)
		}
		seen[other] = true
	}
}
