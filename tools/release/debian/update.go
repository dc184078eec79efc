package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	mirror  = "http://deb.debian.org"
	archive = "http://snapshot.debian.org/archive"
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// Update chooses the newest packages of a Description. apt verifies the repository's signature and
// works in a folder of its own: it neither reads nor changes what this machine has installed.
func Update(ctx context.Context, description Description, now time.Time) (Lock, error) {
	lock := Lock{Suite: description.Suite, Snapshot: now.UTC().Format(snapshotLayout)}
	folder, err := os.MkdirTemp("", "apt-")
	if err != nil {
		return lock, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	options, err := configure(folder, description)
	if err != nil {
		return lock, err
	}
	if _, err := run(ctx, "apt-get", append(options, "--error-on=any", "update")...); err != nil {
		return lock, err
	}
	for _, architecture := range description.Architectures {
		args := append(options[:len(options):len(options)], "show", "--no-all-versions")
		for _, name := range description.Packages {
			args = append(args, name+":"+architecture)
		}
		records, err := run(ctx, "apt-cache", args...)
		if err != nil {
			return lock, err
		}
		packages, err := parseRecords(records)
		if err != nil {
			return lock, err
		}
		if len(packages) != len(description.Packages) {
			return lock, fmt.Errorf("apt knows %d of %d packages for %s",
				len(packages), len(description.Packages), architecture)
		}
		lock.Packages = append(lock.Packages, packages...)
	}
	return lock, nil
}

// configure makes apt's folders and returns the options that make apt use them.
func configure(folder string, description Description) ([]string, error) {
	for _, name := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(folder, 0o755); err != nil { // apt downloads as a user of its own
		return nil, err
	}
	sources := filepath.Join(folder, "sources.list")
	status := filepath.Join(folder, "status")
	trust := "[signed-by=" + keyring + "]"
	suite := description.Suite
	lines := fmt.Sprintf("deb %s %s/debian %s main\ndeb %s %s/debian-security %s-security main\n",
		trust, mirror, suite, trust, mirror, suite)
	err := errors.Join(os.WriteFile(sources, []byte(lines), 0o644), os.WriteFile(status, nil, 0o644))
	options := []string{
		"-o", "Dir::State=" + filepath.Join(folder, "state"),
		"-o", "Dir::Cache=" + filepath.Join(folder, "cache"),
		"-o", "Dir::Etc::SourceList=" + sources,
		"-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::Etc::PreferencesParts=/dev/null",
		"-o", "Dir::State::status=" + status,
		"-o", "Acquire::Languages=none",
	}
	for _, architecture := range description.Architectures {
		options = append(options, "-o", "APT::Architectures::="+architecture)
	}
	return options, err
}

// parseRecords reads what `apt-cache show` prints: paragraphs of fields, as in deb822(5).
func parseRecords(records []byte) ([]Package, error) {
	var packages []Package
	for record := range bytes.SplitSeq(bytes.TrimSpace(records), []byte("\n\n")) {
		// The form is that of a mail's header, with its continued lines.
		message, err := mail.ReadMessage(bytes.NewReader(append(record, "\n\n"...)))
		if err != nil {
			return nil, fmt.Errorf("a record of apt-cache: %w", err)
		}
		pkg, err := parsePackage(message.Header)
		if err != nil {
			return nil, err
		}
		packages = append(packages, pkg)
	}
	return packages, nil
}

func parsePackage(fields mail.Header) (Package, error) {
	pkg := Package{
		Name:         fields.Get("Package"),
		Architecture: fields.Get("Architecture"),
		Version:      fields.Get("Version"),
		File:         fields.Get("Filename"),
		SHA256:       fields.Get("SHA256"),
	}
	// "Source: NAME (VERSION)", each part only where it differs from the package's.
	name, version, found := strings.Cut(fields.Get("Source"), " ")
	pkg.Source, pkg.SourceVersion = name, strings.Trim(version, "()")
	if name == "" {
		pkg.Source = pkg.Name
	}
	if !found {
		pkg.SourceVersion = pkg.Version
	}
	size, err := strconv.ParseInt(fields.Get("Size"), 10, 64)
	if err != nil {
		return pkg, fmt.Errorf("size of %s: %w", pkg.Name, err)
	}
	pkg.Size = size
	if pkg.Name == "" || pkg.Version == "" || pkg.File == "" || len(pkg.SHA256) != 64 {
		return pkg, fmt.Errorf("the record of %q lacks its version, file or SHA256", pkg.Name)
	}
	return pkg, nil
}

// run returns what a program prints; its complaints are in the error.
func run(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out, nil
}
