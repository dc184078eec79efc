// Package tracker asks Debian's security tracker about the packages of the base layer.
package tracker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"time"

	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
)

// URL is the tracker's data: https://security-tracker.debian.org/tracker/
const URL = "https://security-tracker.debian.org/tracker/data/json"

// Data is what the tracker knows: by source package, by name of the vulnerability.
type Data map[string]map[string]issue

type issue struct {
	Releases map[string]struct {
		Status  string `json:"status"`
		Fixed   string `json:"fixed_version"`
		Urgency string `json:"urgency"`
	} `json:"releases"`
}

// Finding is a vulnerability of a source package of the lock.
type Finding struct {
	Name    string
	Source  string
	Version string
	// Fixed is the version of the suite that has the fix; empty while there is none.
	Fixed   string
	Urgency string
}

// String is a line for a person.
func (f Finding) String() string {
	fix := "no fix yet"
	if f.Fixed != "" {
		fix = "fixed in " + f.Fixed
	}
	return fmt.Sprintf("%s: %s %s: %s (urgency: %s)", f.Name, f.Source, f.Version, fix, f.Urgency)
}

const (
	// reachTimeout is for a small answer, downloadTimeout for the tracker's 70 MB.
	reachTimeout    = 20 * time.Second
	downloadTimeout = 5 * time.Minute
)

// Reach returns an error unless a server answers for the URL. It waits at most 20 s.
func Reach(ctx context.Context, url string) error { return reach(ctx, url, reachTimeout) }

func reach(ctx context.Context, url string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	body, err := get(ctx, url)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s does not answer within %s", url, limit)
	}
	if err != nil {
		return err
	}
	return body.Close()
}

// Download asks the tracker. It waits at most 5 minutes.
func Download(ctx context.Context) (Data, error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	body, err := get(ctx, URL)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return Read(body)
}

// get returns the body of an answer. The caller closes it.
func get(ctx context.Context, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return response.Body, nil
}

// Read reads the tracker's data.
func Read(r io.Reader) (Data, error) {
	var data Data
	err := json.NewDecoder(r).Decode(&data)
	return data, err
}

// Check returns what is known of the packages of a lock, sorted.
func Check(ctx context.Context, data Data, lock debian.Lock) ([]Finding, error) {
	sources := map[string]string{}
	for _, pkg := range lock.Packages {
		sources[pkg.Source] = pkg.SourceVersion
	}
	var findings []Finding
	for source, version := range sources {
		for name, issue := range data[source] {
			release, ok := issue.Releases[lock.Suite]
			if !ok {
				continue
			}
			finding := Finding{
				Name: name, Source: source, Version: version, Fixed: release.Fixed,
				Urgency: release.Urgency,
			}
			fixed, err := hasFix(ctx, version, release.Status, release.Fixed)
			if err != nil {
				return nil, err
			}
			if !fixed {
				findings = append(findings, finding)
			}
		}
	}
	slices.SortFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Name, b.Name))
	})
	return findings, nil
}

// hasFix tells whether a version has the fix. "0" is the tracker's word for a suite that was never
// affected.
func hasFix(ctx context.Context, version, status, fixed string) (bool, error) {
	if status != "resolved" {
		return false, nil
	}
	err := exec.CommandContext(ctx, "dpkg", "--compare-versions", version, "ge", fixed).Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return false, nil
	}
	return err == nil, err
}
