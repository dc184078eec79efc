package artifact

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"

	"golang.org/x/mod/semver"
)

// section begins the changes of a version: "## [0.1.0] - 2026-12-01" or "## [Unreleased]".
var section = regexp.MustCompile(`(?m)^## \[([^\]]+)\].*$`)

// link begins a link of Markdown: "](docs/git.md" or, at the beginning of a line,
// "[git]: docs/git.md".
var link = regexp.MustCompile(`(?m)(\]\(|^\[[^\]]+\]: +)([^)\s]+)`)

// Notes returns the version's section of CHANGELOG.md, with absolute links. Only a pre-release may
// take what is unreleased.
func (s Source) Notes() (string, error) {
	content, err := os.ReadFile(s.Path("CHANGELOG.md"))
	if err != nil {
		return "", err
	}
	return notes(string(content), s.Version)
}

func notes(changelog, version string) (string, error) {
	if !semver.IsValid("v" + version) {
		return "", fmt.Errorf("version %q: want one like 0.1.0 or 0.2.0-rc.1 (https://semver.org)", version)
	}
	text, ok := changes(changelog, version)
	if !ok && semver.Prerelease("v"+version) != "" {
		text, ok = changes(changelog, "Unreleased")
	}
	if !ok {
		return "", fmt.Errorf("CHANGELOG.md has no section [%s]: rename Unreleased", version)
	}
	if text == "" {
		return "", errors.New("the version's section of CHANGELOG.md is empty")
	}
	return absolute(text, version)
}

// absolute makes the links of CHANGELOG.md those of the version's tag: a release's page is in
// another folder than CHANGELOG.md, and other versions have other documents.
func absolute(text, version string) (string, error) {
	changelog, err := url.Parse(Home + "/blob/v" + version + "/CHANGELOG.md")
	if err != nil {
		return "", err
	}
	var errs []error
	text = link.ReplaceAllStringFunc(text, func(found string) string {
		part := link.FindStringSubmatch(found)
		target, err := changelog.Parse(part[2])
		if err != nil {
			errs = append(errs, fmt.Errorf("CHANGELOG.md: link %s: %w", part[2], err))
			return found
		}
		return part[1] + target.String()
	})
	return text, errors.Join(errs...)
}

func changes(changelog, version string) (string, bool) {
	headings := section.FindAllStringSubmatchIndex(changelog, -1)
	for i, heading := range headings {
		if changelog[heading[2]:heading[3]] != version {
			continue
		}
		end := len(changelog)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		return strings.TrimSpace(changelog[heading[1]:end]), true
	}
	return "", false
}
