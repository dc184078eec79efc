package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link        = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading     = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchor = regexp.MustCompile(`[^\w\- ]`)
)

// For every link from a document into the repository, the file and the heading exist.
func TestLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	t.Chdir("../..")
	files := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("pages: %q, %v", pages, err)
	}
	for _, file := range append(files, pages...) {
		for _, match := range link.FindAllStringSubmatch(read(t, file), -1) {
			if !strings.Contains(match[1], "://") {
				follow(t, file, match[1])
			}
		}
	}
}

func follow(t *testing.T, from, target string) {
	t.Helper()
	name, anchor, _ := strings.Cut(target, "#")
	file := from
	if name != "" {
		file = filepath.Join(filepath.Dir(from), name)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("%s: %v", from, err)
		return
	}
	if anchor != "" && !anchors(read(t, file))[anchor] {
		t.Errorf("%s: %s has no heading #%s", from, file, anchor)
	}
}

// anchors returns the names by which links name the headings of a document.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, match := range heading.FindAllStringSubmatch(text, -1) {
		plain := notInAnchor.ReplaceAllString(strings.ToLower(match[1]), "")
		found[strings.ReplaceAll(plain, " ", "-")] = true
	}
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
