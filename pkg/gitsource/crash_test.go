package gitsource

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// childDirEnv is the directory of the pool that a child sweeps.
const childDirEnv = "CSI_HOSTPATH_TEST_GITSOURCE_DIR"

// TestChild sweeps and is killed meanwhile. It is for TestKillAtEveryStepOfASweep.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDirEnv)
	if dir == "" {
		return // by itself it is no test
	}
	p := openPool(t, "p", dir)
	// It asks nobody, and a temporary directory would stay.
	s := startContents(t, &fixture.Fetcher{}, p)
	sweepAll(t, s, dir)
}

// sweepAll deletes the contents of the pool in a directory.
func sweepAll(t *testing.T, s *Contents, dir string) {
	t.Helper()
	s.unused = 0
	s.Sweep(t.Context())
	for _, p := range s.opts.Pools.Open() {
		if got := len(p.GitContents()); got != 0 {
			t.Errorf("%d contents are left", got)
		}
	}
	fixture.Eventually(t, "the trash is purged", func() bool {
		left, err := filepath.Glob(filepath.Join(dir, "p/[tv]*/*")) // tmp, trash, volumes
		return err == nil && len(left) == 0
	})
}

// TestKillAtEveryStepOfASweepLeavesTheContentOrNothing kills a child at the first failpoint, then
// at the second, and so on until the child survives.
func TestKillAtEveryStepOfASweepLeavesTheContentOrNothing(t *testing.T) {
	disks.RequireRoot(t)
	binary := filepath.Join(t.TempDir(), "child")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-tags", "failpoint",
		"-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const maxSteps = 50
	for n := 1; ; n++ {
		point := crashSweep(t, binary, n)
		switch {
		case point != "":
			t.Logf("killed at %s", point)
		case n < 3:
			t.Fatalf("the child survives step %d: was it built with the tag failpoint?", n)
		default:
			return
		}
		if n == maxSteps {
			t.Fatalf("the child still dies at step %d", n)
		}
	}
}

// withPool has a pool open for a while, as one process has.
func withPool(t *testing.T, dir string, do func(p *pool.Pool)) {
	t.Helper()
	p, err := pool.Open(t.Context(), pool.Options{Name: "p", Path: filepath.Join(dir, "p")})
	fixture.Must(t, err)
	do(p)
	fixture.Must(t, p.Close())
}

// crashSweep returns the failpoint at which the child died; empty if it survived.
func crashSweep(t *testing.T, binary string, n int) (point string) {
	t.Helper()
	dir := t.TempDir()
	f := fixture.NewFetcher(t)
	f.Commit(commitOf("a"), map[string]string{"x": "one"})
	withPool(t, dir, func(p *pool.Pool) {
		s := startContents(t, f, p)
		fixture.Must(t, open(t, s, 1))
		s.Close()
	})
	child := exec.CommandContext(t.Context(), binary, "-test.run", "^TestChild$")
	child.Env = append(os.Environ(), childDirEnv+"="+dir, fmt.Sprintf("CSI_HOSTPATH_FAILPOINT=:%d", n))
	out, err := child.CombinedOutput()
	_, after, died := strings.Cut(string(out), "failpoint: killed at ")
	if _, exited := errors.AsType[*exec.ExitError](err); !died && err != nil || died && !exited {
		t.Fatalf("the child: %v: %s", err, out)
	}
	point, _, _ = strings.Cut(after, "\n")
	withPool(t, dir, func(p *pool.Pool) {
		if len(p.GitContents()) > 0 && fileOf(t, p, "site/x") != "one" {
			t.Errorf("killed at %s: the content is not whole", point)
		}
		s := startContents(t, f, p)
		fixture.Must(t, open(t, s, 1)) // the pod is back
		if got := fileOf(t, p, "site/x"); got != "one" {
			t.Errorf("killed at %s: the content is %q", point, got)
		}
		s.Release(requestOf(t, 1).Target)
		sweepAll(t, s, dir)
		s.Close()
	})
	return point
}
