package driver

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// newPools returns the pools of a configuration. None of them is open yet.
func newPools(t *testing.T, configs ...config.Pool) *poolSet {
	t.Helper()
	disks.RequireRoot(t)
	cfg := config.Default()
	cfg.KubeletDir = t.TempDir()
	cfg.Pools = configs
	s := newPoolSet(cfg, nodeserver.NewPublications())
	s.retry = 5 * time.Millisecond
	return s
}

// keepOpening lets the set open its pools until the test ends.
func keepOpening(t *testing.T, s *poolSet) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
}

// foreign returns a directory that belongs to another program.
func foreign(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "somebody's"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOneBadPoolDoesNotStopTheOthers(t *testing.T) {
	good, bad := config.NewPool("good",
		filepath.Join(t.TempDir(), "good")), config.NewPool("bad", foreign(t))
	good.Default = true
	s := newPools(t, good, bad)
	keepOpening(t, s)
	fixture.Eventually(t, "all pools are tried", func() bool { return s.stillOpening() == nil })

	open, err := s.ByName("")
	if err != nil || open.Name() != "good" {
		t.Fatalf("the default pool is %v, %v", open, err)
	}
	if found, err := s.ByID(open.ID()); found != open || err != nil {
		t.Errorf("by its ID it is %v, %v", found, err)
	}
	if all := s.Open(); !slices.Equal(all, []*pool.Pool{open}) {
		t.Errorf("the open pools are %v", all)
	}
	_, byName := s.ByName("bad")
	_, byID := s.ByID("ffffffffffff") // perhaps the ID of the pool that is not open
	for _, err := range []error{byName, byID, s.notReady()} {
		if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "bad") ||
			!strings.Contains(err.Error(), "somebody's") {
			t.Errorf("%v: want ErrUnavailable that names the pool and says why", err)
		}
	}
	if text := byName.Error(); strings.Count(text, "pool unavailable") != 1 ||
		strings.Count(text, "pool bad") != 1 {
		t.Errorf("%q has its reason twice", text)
	}
	if _, err := s.ByName("other"); !errors.Is(err, volume.ErrNotFound) ||
		!strings.Contains(err.Error(), "good, bad") {
		t.Errorf("%v: want ErrNotFound naming the pools there are", err)
	}

	if err := os.Remove(filepath.Join(bad.Path, "somebody's")); err != nil {
		t.Fatal(err)
	}
	fixture.Eventually(t, "the repaired pool is picked up", func() bool { return s.notReady() == nil })
	if p, err := s.ByName("bad"); err != nil || p.Name() != "bad" {
		t.Errorf("the repaired pool is %v, %v", p, err)
	}
	if _, err := s.ByID("ffffffffffff"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("%v: want ErrNotFound, now that every pool is open", err)
	}
	if all := s.Open(); len(all) != 2 || all[0].ID() > all[1].ID() {
		t.Errorf("open are %v, want two in the order of their IDs", all)
	}
}

func TestAbsentOptionalPoolIsAsItShouldBe(t *testing.T) {
	main, spare := config.NewPool("main",
		filepath.Join(t.TempDir(), "main")), config.NewPool("spare", filepath.Join(t.TempDir(), "spare"))
	main.Default, spare.Optional = true, true
	s := newPools(t, main, spare)
	keepOpening(t, s)
	fixture.Eventually(t, "the driver is ready",
		func() bool { return s.notReady() == nil && s.stillOpening() == nil })
	if _, err := s.ByName("spare"); !errors.Is(err, volume.ErrUnavailable) ||
		!errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "nothing is at "+spare.Path) {
		t.Errorf("%v: want ErrUnavailable, and that nothing is there", err)
	}
	if _, err := os.Lstat(spare.Path); !os.IsNotExist(err) {
		t.Errorf("the absent pool was made: %v", err)
	}
	if err := os.Mkdir(spare.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	fixture.Eventually(t, "the pool is used when it comes",
		func() bool { _, err := s.ByName("spare"); return err == nil })
}

func TestAbsentOptionalPoolIsToldOnce(t *testing.T) {
	spare := config.NewPool("spare", filepath.Join(t.TempDir(), "spare"))
	spare.Optional = true
	s := newPools(t, spare)
	var out bytes.Buffer
	logger := logr.FromSlogHandler(slog.NewJSONHandler(&out, nil))
	ctx, stop := context.WithCancel(klog.NewContext(t.Context(), logger))
	t.Cleanup(stop)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.run(ctx); err != nil {
			t.Error(err)
		}
	}()
	fixture.Eventually(t, "the pool has been looked for",
		func() bool { return s.stillOpening() == nil })
	fixture.Must(t, os.Mkdir(spare.Path, 0o700))
	fixture.Eventually(t, "the pool is used when it comes",
		func() bool { _, err := s.ByName("spare"); return err == nil })
	stop()
	<-ended
	fixture.Must(t, s.close())
	if text := out.String(); strings.Count(text, "Optional pool is absent here") != 1 ||
		!strings.Contains(text, spare.Path) {
		t.Errorf("the log is %s, want one line on the pool", text)
	}
}

// The check of the configuration compares only the texts of the paths.
func TestPoolWhosePathLeadsElsewhereIsRefusedUntouched(t *testing.T) {
	for title, tc := range map[string]struct {
		link, bind string // the directory, below the test's own, that pool a's path leads to
		rest       string // the part of the path after the link
		says       string
	}{
		"to kubelet's directory":           {link: "kubelet", says: "kubelet's directory"},
		"into kubelet's directory":         {link: "kubelet/pods", says: "kubelet's directory"},
		"to what is to be made in there":   {link: "kubelet/pods", rest: "new/pool", says: "kubelet's directory"},
		"above kubelet's directory":        {link: ".", says: "kubelet's directory"},
		"into kubelet's by a bind mount":   {bind: "kubelet/pods", says: "kubelet's directory"},
		"to another pool":                  {link: "b", says: "the same directory as pool b"},
		"to another pool by a bind mount":  {bind: "b", says: "the same directory as pool b"},
		"into another pool":                {link: "b/in", says: "overlaps pool b"},
		"above another pool":               {link: "above", says: "overlaps pool c"},
		"above one that is still to come":  {link: "coming", says: "overlaps pool d"},
		"to one that is to come by a bind": {bind: "coming", rest: "d", says: "the same directory as pool d"},
	} {
		t.Run(title, func(t *testing.T) {
			root := t.TempDir()
			at := func(name string) string { return filepath.Join(root, name) }
			for _, dir := range []string{"kubelet/pods", "b/in", "above/c", "coming"} {
				fixture.Must(t, os.MkdirAll(at(dir), 0o755))
			}
			a, b := config.NewPool("a", filepath.Join(at("a"), tc.rest)), config.NewPool("b", at("b"))
			s := newPools(t, a, b, config.NewPool("c", at("above/c")), config.NewPool("d", at("coming/d")))
			s.kubeletDir = at("kubelet")
			if tc.link != "" {
				fixture.Must(t, os.Symlink(at(tc.link), at("a")))
			} else {
				fixture.Must(t, os.Mkdir(at("a"), 0o755))
				fixture.Must(t, unix.Mount(at(tc.bind), at("a"), "", unix.MS_BIND, ""))
				t.Cleanup(func() { fixture.Must(t, unix.Unmount(at("a"), unix.MNT_DETACH)) })
			}
			before := modes(t, root)
			err := s.open(t.Context(), s.slots[0])
			if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), tc.says) ||
				!strings.Contains(err.Error(), at("a")) {
				t.Errorf("%v: want ErrUnavailable that says %s", err, tc.says)
			}
			if after := modes(t, root); !maps.Equal(before, after) {
				t.Errorf("the directory has %v, had %v", after, before)
			}
		})
	}
}

func TestPoolBehindALinkOfItsOwnIsUsed(t *testing.T) {
	root := t.TempDir()
	fixture.Must(t, os.MkdirAll(filepath.Join(root, "disk"), 0o755))
	fixture.Must(t, os.Symlink("disk", filepath.Join(root, "link")))
	s := newPools(t, config.NewPool("a", filepath.Join(root, "link", "a")),
		config.NewPool("b", filepath.Join(root, "link", "b")))
	for _, slot := range s.slots {
		fixture.Must(t, s.open(t.Context(), slot))
	}
	fixture.Must(t, s.close())
}

// modes returns the modes of all files of a tree.
func modes(t *testing.T, root string) map[string]os.FileMode {
	t.Helper()
	all := map[string]os.FileMode{}
	fixture.Must(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all[path] = info.Mode()
		}
		return err
	}))
	return all
}

// A volume ID could mean a volume of either pool.
func TestCopyOfAPoolIsRefused(t *testing.T) {
	first, second := config.NewPool("first",
		filepath.Join(t.TempDir(), "p")), config.NewPool("second", filepath.Join(t.TempDir(), "p"))
	s := newPools(t, first, second)
	if err := s.open(t.Context(), s.slots[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(second.Path, os.DirFS(first.Path)); err != nil {
		t.Fatal(err)
	}
	err := s.open(t.Context(), s.slots[1])
	if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), first.Path) ||
		!strings.Contains(err.Error(), second.Path) {
		t.Errorf("%v: want ErrUnavailable naming both directories", err)
	}
	if p, err := s.ByID(s.slots[0].pool.ID()); err != nil || p.Name() != "first" {
		t.Errorf("the ID means %v, %v", p, err)
	}
	// The driver has closed the refused pool, so that another process can open it.
	p, err := pool.Open(t.Context(), pool.Options{Name: "second", Path: second.Path})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestPoolThatMustEnforceSizesIsNotUsed(t *testing.T) {
	c := config.NewPool("p", filepath.Join(t.TempDir(), "p"))
	c.Quota = config.QuotaRequired
	s := newPools(t, c)
	if err := s.open(t.Context(), s.slots[0]); !errors.Is(err, volume.ErrUnavailable) ||
		!strings.Contains(err.Error(), "quota") {
		t.Errorf("%v: want ErrUnavailable about the quota", err)
	}
	if _, err := os.Lstat(c.Path); !os.IsNotExist(err) {
		t.Errorf("the pool was made: %v", err)
	}
}

func TestClosedPoolsAreUnavailable(t *testing.T) {
	s := newPools(t, config.NewPool("p", filepath.Join(t.TempDir(), "p")))
	if err := s.open(t.Context(), s.slots[0]); err != nil {
		t.Fatal(err)
	}
	id := s.slots[0].pool.ID()
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	_, byID := s.ByID(id)
	_, byName := s.ByName("")
	for _, err := range []error{byID, byName} {
		if !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("%v: want ErrUnavailable", err)
		}
	}
}
