// Package crash kills the driver at every step of each operation, and lets clients race. The tests
// show that the driver loses nothing and leaks nothing.
package crash

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// operation is a call that changes something.
type operation string

const (
	creating     operation = "create"
	expanding    operation = "expand"
	deleting     operation = "delete"
	publishing   operation = "publish"
	unpublishing operation = "unpublish"

	snapshotting   operation = "snapshot"
	restoring      operation = "restore"
	cloning        operation = "clone"
	unsnapshotting operation = "unsnapshot"
)

func operations() []operation {
	return []operation{
		creating,
		expanding,
		deleting,
		publishing,
		unpublishing,
		snapshotting,
		restoring,
		cloning,
		unsnapshotting,
	}
}

// diskBytes leaves room for what several killed drivers have left in the trash.
const diskBytes = 2 << 30

// maxSteps bounds the search for the last step.
const maxSteps = 50

// TestSIGKILLAtEveryStepLosesAndLeaksNothing kills the driver at the first failpoint, then at the
// second, and so on until the driver survives the call. So no step can be forgotten. At the end the
// test compares these failpoints with those in the source.
func TestSIGKILLAtEveryStepLosesAndLeaksNothing(t *testing.T) {
	disks.RequireRoot(t)
	binary := fixture.Build(t, "failpoint")
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			disk := disks.New(t, fstype, diskBytes)
			hit := map[string]bool{}
			t.Run("initialize", func(t *testing.T) { crashInitializing(t, binary, disk.Dir, hit) })
			for _, op := range operations() {
				for _, volumeType := range []string{"DirectoryOrCreate", "FileOrCreate"} {
					t.Run(fmt.Sprintf("%s %s", op, volumeType), func(t *testing.T) {
						crashAtEveryStep(t, binary, filepath.Join(disk.Dir, string(op)+"-"+volumeType[:1]), op,
							volumeType, hit)
					})
				}
			}
			crashImages(t, binary, disk.Dir, hit)
			crashGroups(t, binary, disk.Dir, fstype, hit)
			if got, want := slices.Sorted(maps.Keys(hit)), failpointsInSource(t); !slices.Equal(got, want) {
				t.Errorf("the driver died at %q, the source has %q", got, want)
			}
		})
	}
}

func crashAtEveryStep(
	t *testing.T, binary, dir string, op operation, volumeType string, hit map[string]bool,
) {
	t.Helper()
	for n := 1; n <= maxSteps; n++ {
		point := newCrash(t, binary, fmt.Sprintf("%s-%d", dir, n), op, volumeType).run(n)
		if point == "" {
			return // the driver has survived
		}
		hit[point] = true
	}
	t.Fatalf("the driver still dies at step %d", maxSteps)
}

// failpointsInSource returns those of the driver but for pkg/gittree, whose own are of
// TestContentFromGitOutlivesKillsAndLoad.
func failpointsInSource(t *testing.T) []string {
	t.Helper()
	return failpointsIn(t, "../../pkg", "gittree")
}

// failpointsIn returns the names that the code below a directory passes to failpoint.Here or
// converts to a failpoint.Point. Directories with the other name are left out.
func failpointsIn(t *testing.T, dir, without string) []string {
	t.Helper()
	call := regexp.MustCompile(`failpoint\.(?:Here|Point)\("([^"]+)"\)`)
	names := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == without {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path) //nolint:gosec // our own source
		for _, match := range call.FindAllSubmatch(source, -1) {
			names[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(names))
}

// killedAt returns the last failpoint in the log.
func (n *node) killedAt() string {
	_, after, _ := lastCut(n.Log(), "failpoint: killed at ")
	point, _, _ := strings.Cut(after, "\n")
	return point
}

func lastCut(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func crashInitializing(t *testing.T, binary, dir string, hit map[string]bool) {
	t.Helper()
	for step := 1; step <= maxSteps; step++ {
		n := newNode(t, binary, filepath.Join(dir, fmt.Sprintf("initialize-%d", step)))
		d, err := process.Start(n.Options(failpoint(step)))
		if err != nil {
			t.Fatal(err)
		}
		n.Process = d
		if err := d.WaitReady(t.Context()); err == nil {
			return // the driver has survived
		}
		<-d.Exited()
		hit[n.killedAt()] = true
		n.Start()
		id, err := n.create(t.Context(), "first", "DirectoryOrCreate")
		n.Must(err)
		n.wantClean(0, id)
	}
	t.Fatalf("the driver still dies at step %d", maxSteps)
}

// crash kills the driver once. The operation works on the volume victim. The volume bystander is
// published, and must stay as it is.
type crash struct {
	*node
	op                      operation
	volumeType              string
	bystander, victim       string // IDs
	snapshot, copied        string // IDs of the snapshot and the copy of victim
	bystanderAt, victimAt   string // targets
	bystanderFile, dataFile string
}

func newCrash(t *testing.T, binary, dir string, op operation, volumeType string) *crash {
	t.Helper()
	return crashIn(newNode(t, binary, dir), op, volumeType)
}

func crashIn(n *node, op operation, volumeType string) *crash {
	n.t.Helper()
	t, c := n.t, &crash{node: n, op: op, volumeType: volumeType}
	c.Start()
	var err error
	c.bystanderAt, c.victimAt = c.target("bystander"), c.target("victim")
	c.bystander, err = c.create(t.Context(), "bystander", "DirectoryOrCreate")
	c.Must(err)
	c.Must(c.publish(t.Context(), c.bystander, c.bystanderAt))
	c.bystanderFile = file(c.bystanderAt, "DirectoryOrCreate")
	write(t, c.bystanderFile)
	if op == creating {
		return c
	}
	c.victim, err = c.create(t.Context(), "victim", volumeType)
	c.Must(err)
	c.dataFile = file(dataPath(c.Path("pool", "volumes", "victim")), volumeType)
	write(t, c.dataFile)
	switch op {
	case unpublishing, expanding:
		c.Must(c.publish(t.Context(), c.victim, c.victimAt))
	case restoring, unsnapshotting:
		c.snapshot, err = c.takeSnapshot(t.Context(), "snapshot", c.victim)
		c.Must(err)
	default:
	}
	return c
}

// run does the operation with the n-th failpoint armed, and again after a restart. It returns the
// failpoint at which the driver died, and "" if the driver survived.
func (c *crash) run(n int) (point string) {
	c.t.Helper()
	c.Start(failpoint(n))
	if err := c.call(); c.survives(err) {
		c.Start()
		c.check()
		return ""
	}
	<-c.Exited()
	point = c.killedAt()
	c.t.Logf("killed at %s", point)
	c.Start()
	for range 2 { // the retry, and the same call again
		if err := c.call(); err != nil {
			c.t.Errorf("killed at %s: the retry: %v", point, err)
		}
	}
	c.check()
	if c.t.Failed() {
		c.t.FailNow()
	}
	return point
}

func (c *crash) call() (err error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), fixture.Patience())
	defer cancel()
	switch c.op {
	case creating:
		var id string
		if id, err = c.create(ctx, "victim", c.volumeType); err == nil {
			if c.victim != "" && c.victim != id {
				c.t.Errorf("the retry made volume %s, the first call %s", id, c.victim)
			}
			c.victim = id
		}
	case expanding:
		err = c.expand(ctx, c.victim, c.victimAt)
	case deleting:
		err = c.delete(ctx, c.victim)
	case publishing:
		err = c.publishTo(ctx, "2000", c.victim, c.victimAt)
	case unpublishing:
		err = c.unpublish(ctx, c.victim, c.victimAt)
	case snapshotting:
		c.snapshot, err = c.takeSnapshot(ctx, "snapshot", c.victim)
	case restoring:
		c.copied, err = c.copy(ctx, "copied", c.volumeType, fixture.FromSnapshot(c.snapshot))
	case cloning:
		c.copied, err = c.copy(ctx, "copied", c.volumeType, fixture.FromVolume(c.victim))
	case unsnapshotting:
		err = c.deleteSnapshot(ctx, c.snapshot)
	}
	return err
}

// survives says whether the driver is alive after the whole operation, including the work that goes
// on after the answer.
func (c *crash) survives(err error) bool {
	c.t.Helper()
	for deadline := time.Now().Add(fixture.Patience()); ; {
		select {
		case <-c.Exited():
			return false
		case <-time.After(5 * time.Millisecond):
		}
		if err == nil && len(c.leftovers()) == 0 {
			return true
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the driver is alive and the call fails with %v", err)
		}
	}
}

// check tests what must be true after the operation, and then unpublishes and deletes everything.
func (c *crash) check() {
	c.t.Helper()
	ids, mounts := []string{c.bystander}, 1
	switch c.op {
	case creating, unpublishing:
		ids = append(ids, c.victim)
	case publishing:
		ids, mounts = append(ids, c.victim), 2
	case expanding:
		ids, mounts, c.grown = append(ids, c.victim), 2, grownBytes-volumeBytes
	case restoring, cloning:
		ids = append(ids, c.victim, c.copied)
	case snapshotting:
		ids = append(ids, c.victim)
	case unsnapshotting:
		ids, c.snapshot = append(ids, c.victim), ""
	case deleting:
	}
	c.wantClean(mounts, ids...)
	c.wantSnapshots(c.snapshot)
	wantContent(c.t, c.bystanderFile)
	if err := c.delete(c.t.Context(), c.bystander); status.Code(err) != codes.FailedPrecondition {
		c.t.Errorf("deleting the published bystander: %v, want FAILED_PRECONDITION", err)
	}
	switch c.op {
	case creating:
		c.Must(c.publish(c.t.Context(), c.victim, c.victimAt))
		write(c.t, file(c.victimAt, c.volumeType))
		wantContent(c.t, file(c.victimAt, c.volumeType))
	case publishing:
		wantContent(c.t, file(c.victimAt, c.volumeType))
		for _, path := range []string{c.victimAt, file(c.victimAt, c.volumeType)} {
			var st unix.Stat_t
			c.Must(unix.Stat(path, &st))
			if st.Gid != 2000 {
				c.t.Errorf("%s has group %d, want that of the pod, 2000", path, st.Gid)
			}
		}
	case unpublishing:
		if _, err := os.Lstat(c.victimAt); !os.IsNotExist(err) {
			c.t.Errorf("the target still exists: %v", err)
		}
		wantContent(c.t, c.dataFile)
	case expanding:
		wantContent(c.t, c.dataFile)
		if got := c.Entries("pool", "volumes", "victim"); slices.Contains(got, "volume.json.tmp") {
			c.t.Errorf("the volume has %q", got)
		}
	case snapshotting:
		wantContent(c.t, c.dataFile)
		wantContent(c.t, file(dataPath(c.Path("pool", "snapshots", "snapshot")), c.volumeType))
	case restoring, cloning:
		wantContent(c.t, c.dataFile)
		wantContent(c.t, file(dataPath(c.Path("pool", "volumes", "copied")), c.volumeType))
	case unsnapshotting:
		wantContent(c.t, c.dataFile)
	case deleting:
	}
	c.takeDown()
}

func (c *crash) takeDown() {
	c.t.Helper()
	ctx := c.t.Context()
	c.Must(c.unpublish(ctx, c.bystander, c.bystanderAt))
	c.Must(c.unpublish(ctx, c.victim, c.victimAt))
	c.Must(c.delete(ctx, c.bystander))
	c.Must(c.delete(ctx, c.victim))
	if c.copied != "" {
		c.Must(c.delete(ctx, c.copied))
	}
	if c.snapshot != "" {
		c.Must(c.deleteSnapshot(ctx, c.snapshot))
	}
	c.grown = 0
	c.wantSnapshots("")
	c.wantClean(0)
	c.Stop()
}
