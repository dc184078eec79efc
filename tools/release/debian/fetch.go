package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// aptHelper is a part of apt that downloads one file and checks its sum.
const aptHelper = "/usr/lib/apt/apt-helper"

// ErrUnavailable says that nobody gives a locked package: the mirror drops a package once there is
// a newer one, and not every machine reaches the archive.
var ErrUnavailable = errors.New(
	"Debian's mirror and archive do not give the package that base.lock.json has: run make base")

// Fetch returns the path of a package's file, which it downloads into a folder unless the file is
// there. The file has the lock's checksum. Errors: ErrUnavailable.
func (l Lock) Fetch(ctx context.Context, folder string, pkg Package) (string, error) {
	path := filepath.Join(folder, pkg.SHA256+".deb")
	if content, err := os.ReadFile(path); err == nil && sum(content) == pkg.SHA256 {
		return path, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	var failed error
	for _, uri := range l.uris(pkg) {
		_, err := run(ctx, aptHelper, "download-file", uri, path, "SHA256:"+pkg.SHA256)
		if err == nil {
			return path, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", uri, err))
	}
	return "", fmt.Errorf("%s %s: %w: %w", pkg.Name, pkg.Version, ErrUnavailable, failed)
}

// uris are where a package is: on the mirror as long as it is the newest, in the archive for ever.
func (l Lock) uris(pkg Package) []string {
	repository := "debian"
	if strings.HasPrefix(pkg.File, "pool/updates/") {
		repository = "debian-security"
	}
	return []string{
		fmt.Sprintf("%s/%s/%s", mirror, repository, pkg.File),
		fmt.Sprintf("%s/%s/%s/%s", archive, repository, l.Snapshot, pkg.File),
	}
}

func sum(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}

// URL is where a package stays for ever.
func (l Lock) URL(pkg Package) string {
	uris := l.uris(pkg)
	return uris[len(uris)-1]
}
