package artifact

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"golang.org/x/mod/semver"
)

// section begins the changes of a version: "## [0.1.0] - 2026-12-01" or "## [Unreleased]".
var section = regexp.MustCompile(`(?m)^## \[([^\]]+)\].*$`)

// Notes returns the version's section of CHANGELOG.md. Only a pre-release may take what is
// unreleased.
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
	return text, nil
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
