package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

func TestRepositoryWithoutCommits(t *testing.T) {
	a, _, _ := ask(t, t.TempDir(), newRepository(t).request())
	if a.Fault != gitwire.NotFound || !strings.Contains(a.Message, "empty") {
		t.Errorf("an empty repository: %+v", a)
	}
}

func TestSHA256IsRefused(t *testing.T) {
	r := newRepository(t)
	if err := os.RemoveAll(filepath.Join(r.dir, ".git")); err != nil {
		t.Fatal(err)
	}
	r.git("init", "--quiet", "--initial-branch=main", "--object-format=sha256", r.dir)
	r.commit(map[string]string{"a": "1"})
	a, _, _ := ask(t, t.TempDir(), r.request())
	if a.Fault != gitwire.Refused || !strings.Contains(a.Message, "SHA-256") {
		t.Errorf("a repository with SHA-256: %+v", a)
	}
}

func TestHEADThatNamesNoBranch(t *testing.T) {
	r := newRepository(t)
	commit := r.commit(map[string]string{"a": "1"})
	r.git("symbolic-ref", "HEAD", "refs/heads/none")
	q := r.request()
	a, _, _ := ask(t, t.TempDir(), q)
	if a.Fault != gitwire.NotFound || !strings.Contains(a.Message, "HEAD") {
		t.Errorf("without a HEAD: %+v", a)
	}
	q.Ref = "main"
	if a, _, _ = ask(t, t.TempDir(), q); a.Commit != commit {
		t.Errorf("a branch beside it: %+v", a)
	}
}

func TestTags(t *testing.T) {
	r := newRepository(t)
	commit := r.commit(map[string]string{"a": "1"})
	r.git("tag", "-a", "-m", "x", "one")
	r.git("-c", "advice.nestedTag=false", "tag", "-a", "-m", "x", "two", "one")
	r.git("tag", "blob", "HEAD:a")
	r.git("tag", "tree", "HEAD^{tree}")
	cache := t.TempDir()
	for _, tt := range []struct {
		ref, commit string
		fault       gitwire.Fault
	}{
		{"one", commit, ""},
		{"two", commit, ""},
		{r.git("rev-parse", "two"), commit, ""},
		{"blob", "", gitwire.NotFound},
		{"tree", "", gitwire.NotFound},
	} {
		q := r.request()
		q.Ref = tt.ref
		if a, _, _ := ask(t, cache, q); a.Commit != tt.commit || a.Fault != tt.fault {
			t.Errorf("tag %s: %+v, want %q %q", tt.ref, a, tt.commit, tt.fault)
		}
		if tt.fault != "" {
			continue
		}
		q.Base = commit
		if a, _, _ := ask(t, cache, q); !a.Unchanged {
			t.Errorf("tag %s, which has not moved: %+v", tt.ref, a)
		}
	}
}

// A server may refuse a commit that none of its refs names.
func TestCommitThatNoRefNames(t *testing.T) {
	r := newRepository(t)
	first := r.commit(map[string]string{"a": "1"})
	second := r.commit(map[string]string{"a": "2"})
	r.git("reset", "--quiet", "--hard", first)
	q := r.request()
	q.Ref = second
	r.git("config", "uploadpack.allowAnySHA1InWant", "true")
	if a, _, contents := ask(t, t.TempDir(), q); a.Commit != second || contents != "2" {
		t.Errorf("a server that allows it: %+v, %q", a, contents)
	}
	r.git("config", "uploadpack.allowAnySHA1InWant", "false")
	a, _, _ := ask(t, t.TempDir(), q)
	if a.Fault != gitwire.NotFound || !strings.Contains(a.Message, second) {
		t.Errorf("a server that does not: %+v", a)
	}
	q.Ref = strings.Repeat("1", 40)
	if a, _, _ = ask(t, t.TempDir(), q); a.Fault != gitwire.NotFound {
		t.Errorf("a commit that does not exist: %+v", a)
	}
}

// A rewritten history leaves files that the base has, too.
func TestHistoryThatWasRewritten(t *testing.T) {
	for _, depth := range []int{0, 1} {
		r := newRepository(t)
		root := r.commit(map[string]string{"same": "1", "other": "1"})
		base := r.commit(map[string]string{"more": "1"})
		cache, q := t.TempDir(), r.request()
		q.Depth = depth
		if a, _, _ := ask(t, cache, q); a.Commit != base {
			t.Fatalf("%+v", a)
		}
		r.git("reset", "--quiet", "--hard", root)
		commit := r.commit(map[string]string{"other": "2"})
		r.git("reflog", "expire", "--expire=now", "--all")
		r.git("gc", "--quiet", "--prune=now")
		q.Base = base
		a, headers, contents := ask(t, cache, q)
		want := "0 644 other\n1 644 same -> same\n"
		got := describe(headers)
		if a.Commit != commit || a.Base != base || got != want || contents != "2" {
			t.Errorf("depth %d: %+v\n%s, want\n%s", depth, a, got, want)
		}
		r.git("checkout", "--quiet", "--orphan", "new")
		commit = r.commit(map[string]string{"same": "1"})
		q.Ref = "new"
		a, headers, _ = ask(t, cache, q)
		if got := describe(headers); a.Commit != commit || !strings.Contains(got, "1 644 same -> same") {
			t.Errorf("depth %d, another root: %+v\n%s", depth, a, got)
		}
	}
}

func TestDepthIsThatOfTheHistory(t *testing.T) {
	r := newRepository(t)
	for i := range 5 {
		r.commit(map[string]string{"a": strconv.Itoa(i)})
	}
	for depth, commits := range map[int]int{0: 5, 1: 1, 3: 3, 9: 5} {
		cache, q := t.TempDir(), r.request()
		q.Depth = depth
		if a, _, contents := ask(t, cache, q); a.Fault != "" || contents != "4" {
			t.Errorf("depth %d: %+v %q", depth, a, contents)
		}
		packs, err := filepath.Glob(filepath.Join(cache, "*", "objects", "pack", "*.idx"))
		if err != nil || len(packs) != 1 {
			t.Fatalf("depth %d: %d packs, %v", depth, len(packs), err)
		}
		// Each commit has a tree and a blob of its own.
		index, err := os.ReadFile(packs[0])
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(r.gitIn(index, "show-index"), "\n") + 1
		if lines != 3*commits {
			t.Errorf("depth %d: the cache has %d objects, want %d", depth, lines, 3*commits)
		}
	}
}

// Of submodules and files in Git LFS a tree has what git has without these programs: nothing, and a
// pointer.
func TestSubmodulesAndLFS(t *testing.T) {
	r := newRepository(t)
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
	r.commit(map[string]string{
		".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a.bin": pointer,
		".gitmodules": "[submodule \"s\"]\n\tpath = s\n\turl = https://127.0.0.1/s\n",
	})
	r.git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",s")
	r.git("commit", "--quiet", "-m", "x")
	a, headers, contents := ask(t, t.TempDir(), r.request())
	want := "0 644 .gitattributes\n0 644 .gitmodules\n0 644 a.bin\n"
	got := describe(headers)
	if a.Fault != "" || got != want || !strings.HasSuffix(contents, pointer) {
		t.Errorf("the answer is %+v, the tree\n%s, the contents %q", a, got, contents)
	}
}

func TestSubPathThatIsNoDirectory(t *testing.T) {
	r := newRepository(t)
	r.commit(map[string]string{"d/file": "1"})
	if err := os.Symlink("d", filepath.Join(r.dir, "link")); err != nil {
		t.Fatal(err)
	}
	base := r.commit(nil)
	for _, path := range []string{"d/file", "link", "none", "d/file/x", "..", "."} {
		q := r.request()
		q.SubPath = path
		a, _, _ := ask(t, t.TempDir(), q)
		if a.Fault != gitwire.NotFound || !strings.Contains(a.Message, "subPath") {
			t.Errorf("subPath %s: %+v", path, a)
		}
	}
	// The directory is new: the base has none.
	commit := r.commit(map[string]string{"new/file": "1"})
	q := r.request()
	q.SubPath, q.Base = "new", base
	a, headers, _ := ask(t, t.TempDir(), q)
	if got := describe(headers); a.Commit != commit || a.Base != "" || got != "0 644 file\n" {
		t.Errorf("a new directory: %+v\n%s", a, got)
	}
}

// A file that is moved, or whose mode changes, is found by its content, and only if its mode is the
// same: a hard link has the mode of the file.
func TestWhatTheBaseHas(t *testing.T) {
	r := newRepository(t)
	files := map[string]string{"same": "same", "mode": "mode", "d/x": "x", "z": "z"}
	base := r.commit(files)
	cache, q := t.TempDir(), r.request()
	if a, _, _ := ask(t, cache, q); a.Commit != base {
		t.Fatalf("%+v", a)
	}
	r.git("mv", "d/x", "d.x") // sorted before d/
	r.git("mv", "z", "e")
	if err := os.Chmod(filepath.Join(r.dir, "mode"), 0o755); err != nil {
		t.Fatal(err)
	}
	commit := r.commit(map[string]string{"d/y": "same"})
	q.Base = base
	a, headers, contents := ask(t, cache, q)
	want := "1 644 d.x -> d/x\n5 755 d/\n1 644 d/y -> same\n1 644 e -> z\n0 755 mode\n1 644 same -> same\n"
	if got := describe(headers); a.Commit != commit || got != want || contents != "mode" {
		t.Errorf("the answer is %+v, the contents %q, the tree\n%s, want\n%s", a, contents, got, want)
	}
}
