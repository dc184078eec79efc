package config

import (
	"fmt"
	"path/filepath"
	"strings"
)

// maxSocketBytes: sun_path has 108 bytes, the last of them for the final NUL (unix(7)).
const maxSocketBytes = 107

// SocketPath is the path in an endpoint.
func SocketPath(endpoint string) (string, error) {
	path, isUnix := strings.CutPrefix(endpoint, "unix:")
	path = strings.TrimPrefix(path, "//")
	switch {
	case !isUnix || !filepath.IsAbs(path):
		return "", fmt.Errorf("%s must be unix:///absolute/path", quote(endpoint))
	case hasControl(path):
		return "", fmt.Errorf("%s must be UTF-8 without control characters", quote(endpoint))
	case filepath.Clean(path) != path || path == "/":
		return "", fmt.Errorf("%s must name a socket, written without \"..\", \".\" and needless slashes",
			quote(endpoint))
	case len(path) > maxSocketBytes:
		return "", fmt.Errorf("%s: the path has %d bytes, a socket's may have %d", quote(endpoint),
			len(path), maxSocketBytes)
	}
	return path, nil
}
