package gittree

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// What a child replaces: the directory of the data, and the base.
const (
	childDataEnv = "CSI_HOSTPATH_TEST_GITTREE_DATA"
	childBaseEnv = "CSI_HOSTPATH_TEST_GITTREE_BASE"
)

// TestChild replaces a tree and is killed meanwhile. It is for TestKillAtEveryStep.
func TestChild(t *testing.T) {
	data := os.Getenv(childDataEnv)
	if data == "" {
		return // by itself it is no test
	}
	f := &fixture{openContent(t, data), t, data}
	f.replace(commit2, os.Getenv(childBaseEnv), second(os.Getenv(childBaseEnv))...)
}

// second is the second tree.
func second(base string) []item {
	items := []item{{name: "index.html", content: "second"}, {name: "css/"}, {name: "css/new"}}
	if base != "" {
		items = append(items, item{name: "css/site.css", base: "css/site.css"}, item{name: "run", base: "run"})
	}
	return items
}

func secondState(base string) map[string]string {
	want := map[string]string{
		"index.html": "-rw-r--r-- second", "css": "drwxr-xr-x ", "css/new": "-rw-r--r-- ",
	}
	if base != "" {
		want["css/site.css"], want["run"] = "-rw-r--r-- css", "-rwxr-xr-x #!/bin/sh\n"
	}
	return want
}

// TestKillAtEveryStepLeavesOneOfTheTwoTrees kills a child at the first failpoint, then at the
// second, and so on until the child survives.
func TestKillAtEveryStepLeavesOneOfTheTwoTrees(t *testing.T) {
	disks.RequireRoot(t)
	binary := filepath.Join(t.TempDir(), "child")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-tags", "failpoint",
		"-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			disk := disks.New(t, fstype, 0).Dir
			hit := map[string]bool{}
			for _, base := range []string{"", commit1} {
				for n := 1; ; n++ {
					point := crash(t, binary, filepath.Join(disk, fmt.Sprintf("%.1s-%d", base, n)), base, n)
					if point == "" {
						break
					}
					hit[point] = true
				}
			}
			if got, want := slices.Sorted(maps.Keys(hit)), pointsInSource(t); !slices.Equal(got, want) {
				t.Errorf("the child died at %q, the source has %q", got, want)
			}
		})
	}
}

// crash returns the failpoint at which the child died; empty if it survived.
func crash(t *testing.T, binary, dir, base string, n int) (point string) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	f := newFixture(t, dir)
	if base != "" {
		f.replace(commit1, "", site()...)
	}
	must(t, f.Close())
	child := exec.CommandContext(t.Context(), binary, "-test.run", "^TestChild$")
	child.Env = append(os.Environ(), childDataEnv+"="+f.data, childBaseEnv+"="+base,
		fmt.Sprintf("CSI_HOSTPATH_FAILPOINT=git.:%d", n))
	out, err := child.CombinedOutput()
	_, after, died := strings.Cut(string(out), "failpoint: killed at ")
	if _, exited := errors.AsType[*exec.ExitError](err); !died && err != nil || died && !exited {
		t.Fatalf("the child: %v: %s", err, out)
	}
	point, _, _ = strings.Cut(after, "\n")
	checkAfterCrash(t, f, base, point)
	return point
}

func checkAfterCrash(t *testing.T, f *fixture, base, point string) {
	t.Helper()
	trees := map[string]map[string]string{
		"": {}, commit1: treeOf(commit1, siteState()), commit2: treeOf(commit2, secondState(base)),
	}
	unseen := func(path, _ string) bool { return !strings.HasPrefix(path, repo) }
	before := state(t, filepath.Join(f.data, contentDir)) // as pods see it while no driver runs
	maps.DeleteFunc(before, unseen)
	f.Content = openContent(t, f.data)
	if c := f.Commit(); c != base && c != commit2 || point == "" && c != commit2 {
		t.Errorf("killed at %q: the commit is %q", point, c)
	}
	f.wantContent(trees[f.Commit()])
	maps.DeleteFunc(trees[f.Commit()], unseen)
	if !maps.Equal(before, trees[f.Commit()]) {
		t.Errorf("killed at %q: before Open pods see %q", point, before)
	}
	must(t, f.RemoveOld(t.Context(), time.Now().Add(DefaultGrace+time.Second)))
	f.wantBuilding()
	f.replace(commit1, "", site()...)
	f.wantContent(treeOf(commit1, siteState()))
}

func pointsInSource(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	must(t, err)
	points := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		must(t, err)
		call := regexp.MustCompile(`failpoint\.Here\("([^"]+)"\)`)
		for _, match := range call.FindAllSubmatch(source, -1) {
			points[string(match[1])] = true
		}
	}
	return slices.Sorted(maps.Keys(points))
}

// TestOpenRepairsWhatIsBesideTheTree is for what a power cut makes of files that nobody has synced.
func TestOpenRepairsWhatIsBesideTheTree(t *testing.T) {
	f := newFixture(t, disks.New(t, disks.Ext4, 0).Dir)
	f.replace(commit1, "", site()...)
	for _, text := range []string{"", commit2 + "\n", commit1, strings.Repeat("x", 10_000)} {
		for _, name := range []string{CommitFile, signal} {
			must(t, os.WriteFile(filepath.Join(f.data, contentDir, name), []byte(text), 0o600))
		}
		f.reopen()
		f.wantContent(treeOf(commit1, siteState()))
	}
	must(t, os.RemoveAll(filepath.Join(f.data, contentDir, repo)))
	f.reopen()
	f.wantContent(map[string]string{})
	if f.Commit() != "" {
		t.Errorf("the commit is %s", f.Commit())
	}
}

// A tree without its attribute is shown until the next one takes its place.
func TestTreeOfUnknownCommitIsReplaced(t *testing.T) {
	f := newFixture(t, disks.New(t, disks.Ext4, 0).Dir)
	must(t, os.Mkdir(filepath.Join(f.data, contentDir, repo), 0o755))
	f.reopen()
	if f.Commit() != "" {
		t.Errorf("the commit is %s", f.Commit())
	}
	f.replace(commit1, "", site()...)
	f.wantContent(treeOf(commit1, siteState()))
	f.wantBuilding(oldPrefix)
}

// What lies in the place of a directory is not followed, and nothing is written through it.
func TestOpenFollowsNoLink(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 0).Dir
	for _, path := range []string{contentDir, buildingDir, contentDir + "/" + repo} {
		data := filepath.Join(disk, strings.ReplaceAll(path, "/", "-"))
		must(t, os.MkdirAll(filepath.Join(data, filepath.Dir(path)), 0o755))
		must(t, os.Symlink("/etc", filepath.Join(data, path)))
		d, err := os.Open(data)
		must(t, err)
		before := state(t, "/etc/default")
		if c, err := Open(d, repo, Options{}); err == nil {
			must(t, c.Close())
			t.Errorf("%s was followed", path)
		}
		must(t, d.Close())
		if !maps.Equal(state(t, "/etc/default"), before) {
			t.Error("files were written through a link")
		}
	}
}

func TestClockThatWasSetBackDoesNotKeepOldTrees(t *testing.T) {
	f := newFixture(t, disks.New(t, disks.Ext4, 0).Dir)
	f.replace(commit1, "", site()...)
	must(t, f.Replace(t.Context(), commit2, "", plenty, bytes.NewReader(archiveOf(t, site()...))))
	must(t, f.RemoveOld(t.Context(), time.Now().Add(-DefaultGrace/2)))
	f.wantBuilding(oldPrefix)
	must(t, f.RemoveOld(t.Context(), time.Now().Add(-24*time.Hour)))
	f.wantBuilding()
}
