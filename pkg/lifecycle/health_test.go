package lifecycle

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// sickNodes says what it is told of the health of the pool.
type sickNodes struct {
	linked

	mu         sync.Mutex
	health     []PoolHealth
	references map[string]map[string][]volume.Fault
}

// References implements Nodes.
func (s *sickNodes) References() map[string]map[string][]volume.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.references
}

// Health implements Nodes.
func (s *sickNodes) Health() []PoolHealth {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

// say replaces what the nodes have pushed, and waits until the Controller has looked at it.
func (s *sickNodes) say(pushed ...PoolHealth) {
	s.mu.Lock()
	s.health = pushed
	s.mu.Unlock()
	time.Sleep(3 * healthInterval)
	synctest.Wait()
}

// sick is a world with so many claims, "c0" and so on, with volumes "v0" and so on in the pool.
func sick(t *testing.T, claims int) (*world, *sickNodes) {
	t.Helper()
	var objects []runtime.Object
	for i := range claims {
		c := bound(fmt.Sprintf("c%d", i), fmt.Sprintf("v%d", i))
		objects = append(objects, c, ofClaim(volumeObject(c.Spec.VolumeName, "b"), c))
	}
	w, nodes := newWorld(t, objects...), &sickNodes{linked: linked{pool: "b"}}
	w.options.Nodes = nodes
	return w, nodes
}

func TestOwnerIsToldOnceOfEachChangeOfHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, nodes := sick(t, 2)
		healthy := PoolHealth{Name: "fast", ID: pool}
		damaged := healthy
		damaged.Faults = map[string][]volume.Fault{pool + "-v0": {volume.FaultImageDamaged}}
		dead := damaged
		dead.NotReady = volume.ReasonDiskFailed
		w.run(func() {
			want := 0
			for _, step := range []struct {
				name   string
				pushed []PoolHealth
				events int // about both claims
				words  []string
				with   int
			}{
				{"healthy", []PoolHealth{healthy}, 0, []string{reasonHealthy}, 0},
				{
					"a damaged image",
					[]PoolHealth{damaged},
					1,
					[]string{"PersistentVolumeClaim ns/c0", reasonUnhealthy, "ImageDamaged", "fsck"},
					1,
				},
				{
					"a dead disk",
					[]PoolHealth{dead},
					2,
					[]string{"PersistentVolumeClaim ns/c1", reasonUnhealthy, "DiskFailed: Pool fast: "},
					1,
				},
				{"the node is away", nil, 0, []string{reasonHealthy}, 0},
				{"as before", []PoolHealth{dead}, 0, []string{reasonHealthy}, 0},
				{
					"the disk is back",
					[]PoolHealth{damaged},
					2,
					[]string{"PersistentVolumeClaim ns/c1", reasonHealthy},
					1,
				},
				{
					"the image is repaired",
					[]PoolHealth{healthy},
					1,
					[]string{"PersistentVolumeClaim ns/c0", reasonHealthy},
					1,
				},
			} {
				nodes.say(step.pushed...)
				want += step.events
				if n := w.recorder.with(); n != want || w.recorder.with(step.words...) != step.with {
					t.Errorf("%s: %d events, want %d, %d of them with %q: %q", step.name, n, want, step.with,
						step.words, w.recorder.events)
				}
			}
		})
	})
}

func TestOwnersOfADeadDiskAreToldInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const claims = maxEventsAtOnce + 7
		w, nodes := sick(t, claims)
		w.run(func() {
			nodes.mu.Lock()
			nodes.health = []PoolHealth{{Name: "fast", ID: pool, NotReady: volume.ReasonDiskFailed}}
			nodes.mu.Unlock()
			time.Sleep(healthInterval)
			synctest.Wait()
			if n := w.recorder.with(reasonUnhealthy); n != maxEventsAtOnce {
				t.Errorf("%d owners are told at once, want %d", n, maxEventsAtOnce)
			}
			time.Sleep(3 * healthInterval)
			synctest.Wait()
			if n := w.recorder.with(reasonUnhealthy); n != claims {
				t.Errorf("%d owners are told, want %d", n, claims)
			}
		})
	})
}

// Several nodes may show the content of a claim.
func TestOwnerIsToldOfStaleContentOnceForAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const handle = "host-0123456789ab-v"
		c := bound("c", "v")
		v := ofClaim(volumeObject("v", "b"), c)
		v.Spec.NodeAffinity, v.Spec.CSI.VolumeHandle = nil, handle
		w, nodes := newWorld(t, c, v), &sickNodes{linked: linked{pool: "b"}}
		w.options.Nodes = nodes
		type ofNodes = map[string]map[string][]volume.Fault
		fresh := map[string][]volume.Fault{}
		stale := map[string][]volume.Fault{handle: {volume.FaultGitStale}, "unknown": {"x"}}
		w.run(func() {
			for _, step := range []struct {
				name               string
				pushed             ofNodes
				unhealthy, healthy int // events so far
			}{
				{"nothing", nil, 0, 0},
				{"stale on a", ofNodes{"a": stale, "b": fresh}, 1, 0},
				{"stale on both", ofNodes{"a": stale, "b": stale}, 1, 0},
				{"fetched on a", ofNodes{"a": fresh, "b": stale}, 1, 0},
				{"b is away", ofNodes{"a": fresh}, 1, 0},
				{"fetched on b", ofNodes{"a": fresh, "b": fresh}, 1, 1},
				{"stale again", ofNodes{"b": stale}, 2, 1},
				{"fetched again", ofNodes{"b": fresh}, 2, 2},
				{"stale on a node without an object", ofNodes{"c": stale}, 3, 2},
				{"that node is away, too", nil, 3, 3},
			} {
				nodes.mu.Lock()
				nodes.references = step.pushed
				nodes.mu.Unlock()
				nodes.say()
				unhealthy := w.recorder.with("PersistentVolumeClaim ns/c", reasonUnhealthy, "GitStale: ")
				healthy := w.recorder.with("PersistentVolumeClaim ns/c", reasonHealthy)
				if unhealthy != step.unhealthy || healthy != step.healthy {
					t.Errorf("%s: %d and %d events, want %d and %d: %q", step.name, unhealthy, healthy,
						step.unhealthy, step.healthy, w.recorder.events)
				}
			}
		})
	})
}
