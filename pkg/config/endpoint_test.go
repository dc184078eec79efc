package config

import (
	"path/filepath"
	"strings"
	"testing"
)

func FuzzSocketPath(f *testing.F) {
	for _, seed := range []string{"unix:///csi/csi.sock", "unix:/a", "unix:////a", "tcp://a", "unix://a", "unix:///a/..", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		path, err := SocketPath(endpoint)
		if err != nil {
			return
		}
		if !filepath.IsAbs(path) || filepath.Clean(path) != path || len(path) > maxSocketBytes ||
			strings.ContainsRune(path, 0) {
			t.Errorf("%q: accepted as %q", endpoint, path)
		}
	})
}
