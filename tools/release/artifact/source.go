// Package artifact makes what a release consists of.
package artifact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Home is where the source and the releases are.
const Home = "https://github.com/csi-hostpath/csi-hostpath"

// Source is a checkout, and which version is made from it.
type Source struct {
	Folder  string
	Version string
	// Commit is empty where git knows none: an image for a try may be built there, no release.
	Commit string
	// Time is the commit's, or what SOURCE_DATE_EPOCH says (reproducible-builds.org). All that is
	// made has this time.
	Time time.Time
	// Dirty says that the checkout is not what the commit has.
	Dirty bool
}

// NewSource looks at a checkout.
func NewSource(ctx context.Context, folder, version string) (Source, error) {
	source := Source{Folder: folder, Version: version, Time: time.Unix(0, 0).UTC()}
	if version == "" || version == "unknown" {
		return source, errors.New("say which version this is: VERSION=0.1.0")
	}
	if commit, err := output(ctx, folder, "git", "rev-parse", "HEAD"); err == nil {
		source.Commit = commit
		status, err := output(ctx, folder, "git", "status", "--porcelain")
		if err != nil {
			return source, err
		}
		source.Dirty = status != ""
		seconds, err := output(ctx, folder, "git", "log", "-1", "--format=%ct")
		if err != nil {
			return source, err
		}
		if source.Time, err = parseEpoch(seconds); err != nil {
			return source, err
		}
	}
	if seconds := os.Getenv("SOURCE_DATE_EPOCH"); seconds != "" {
		var err error
		if source.Time, err = parseEpoch(seconds); err != nil {
			return source, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
	}
	return source, nil
}

func parseEpoch(seconds string) (time.Time, error) {
	parsed, err := strconv.ParseInt(seconds, 10, 64)
	return time.Unix(parsed, 0).UTC(), err
}

// Path is a path in the checkout.
func (s Source) Path(name ...string) string {
	return filepath.Join(append([]string{s.Folder}, name...)...)
}

// Asset is the address that a file of the release gets.
func (s Source) Asset(name string) string {
	return Home + "/releases/download/v" + s.Version + "/" + name
}

func output(ctx context.Context, folder, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = folder
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}
