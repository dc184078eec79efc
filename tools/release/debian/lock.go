// Package debian takes files out of Debian packages whose versions and checksums are locked.
//
// Debian's programs do what needs trust or a file format: apt verifies signatures and downloads,
// dpkg-deb unpacks. No maintainer script runs, so packages of another architecture need no
// emulation.
package debian

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"go.yaml.in/yaml/v3"
)

// Description is what a person decides about the base layer (deploy/image/base.yaml).
type Description struct {
	Suite         string   `yaml:"suite"`
	Architectures []string `yaml:"architectures"`
	// Files are absolute paths of what is wanted, as the packages name them.
	Files []string `yaml:"files"`
	// Packages are the binary packages that files and libraries are taken from.
	Packages []string `yaml:"packages"`
}

// Lock is the exact packages of a Description (deploy/image/base.lock.json).
type Lock struct {
	Suite string `json:"suite"`
	// Snapshot is when the packages were chosen, as snapshot.debian.org writes it.
	Snapshot string    `json:"snapshot"`
	Packages []Package `json:"packages"`
}

// Package is one binary package of one architecture.
type Package struct {
	Name          string `json:"name"`
	Architecture  string `json:"architecture"`
	Version       string `json:"version"`
	Source        string `json:"source"`
	SourceVersion string `json:"sourceVersion"`
	File          string `json:"file"` // below the repository's root: pool/…
	Size          int64  `json:"size"`
	SHA256        string `json:"sha256"`
}

// snapshotLayout is the time of a snapshot, for package time.
const snapshotLayout = "20060102T150405Z"

// ReadDescription reads a Description; a field that it does not know is an error.
func ReadDescription(path string) (Description, error) {
	var description Description
	content, err := os.ReadFile(path)
	if err != nil {
		return description, err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&description); err != nil {
		return description, fmt.Errorf("%s: %w", path, err)
	}
	return description, nil
}

// ReadLock reads a Lock.
func ReadLock(path string) (Lock, error) {
	var lock Lock
	content, err := os.ReadFile(path)
	if err != nil {
		return lock, err
	}
	if err := json.Unmarshal(content, &lock); err != nil {
		return lock, fmt.Errorf("%s: %w", path, err)
	}
	return lock, nil
}

// Write writes a Lock.
func (l Lock) Write(path string) error {
	content, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

// Of returns the packages of an architecture.
func (l Lock) Of(architecture string) []Package {
	var packages []Package
	for _, pkg := range l.Packages {
		if pkg.Architecture == architecture {
			packages = append(packages, pkg)
		}
	}
	return packages
}

// Time is when the packages were chosen.
func (l Lock) Time() (time.Time, error) { return time.Parse(snapshotLayout, l.Snapshot) }
