package main

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// gap is a variable part of a message, as the page writes it.
	gap = regexp.MustCompile(`…|pool\.json|volumes/`)
	// concatenation is where a string goes on in the next line.
	concatenation = regexp.MustCompile(`" \+\n\s*"`)
)

// An operator searches docs/operations.md for the words that the driver says, so it has to have the
// driver's own.
func TestMessagesThatOperatorsLookUpAreTheDriversOwn(t *testing.T) {
	t.Chdir("../..")
	said := sources(t, "pkg")
	_, rest, ok := strings.Cut(read(t, "docs/operations.md"), "\n## What the driver says\n")
	if !ok {
		t.Fatal("the section is gone")
	}
	page, _, _ := strings.Cut(rest, "\n## ")
	messages := 0
	for line := range strings.Lines(page) {
		cells := strings.Split(line, " | ")
		for _, message := range code.FindAllStringSubmatch(cells[0], -1) {
			messages++
			for _, part := range gap.Split(message[1], -1) {
				if part = strings.TrimSpace(part); !strings.Contains(said, part) {
					t.Errorf("no message has %q of %q", part, message[1])
				}
			}
		}
	}
	if messages < 15 {
		t.Errorf("%d messages: the test looks at the wrong table", messages)
	}
}

// sources is the text of the Go files below a directory, but for tests.
func sources(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(file, ".go") &&
			!strings.HasSuffix(file, "_test.go") {
			text.WriteString(read(t, file))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return concatenation.ReplaceAllString(text.String(), "")
}
