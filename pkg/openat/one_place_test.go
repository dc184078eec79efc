package openat

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The linter forbids the system calls elsewhere (forbidigo). It cannot forbid a path in a string,
// nor what tests do.
func TestNobodyElseMakesPathsOfDescriptors(t *testing.T) {
	made := regexp.MustCompile("unix\\.Openat2\\b|[\"`]/proc/(self|%d)/fd[/\"`]")
	root := os.DirFS("../..")
	files := 0
	for _, dir := range []string{"cmd", "pkg", "sanity"} {
		err := fs.WalkDir(root, dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasPrefix(path, "pkg/openat/") {
				return err
			}
			files++
			content, err := fs.ReadFile(root, path)
			if found := made.Find(content); found != nil {
				t.Errorf("%s has %s: use pkg/openat", path, found)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 100 {
		t.Errorf("only %d files were read", files)
	}
}
