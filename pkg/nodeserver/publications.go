package nodeserver

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Publications knows which volume is published where. It is never stored: it is read from the mount
// table when a pool opens, kept up by publish and unpublish, and checked against the mount itself
// before anybody is refused because of it.
type Publications struct {
	mu       sync.Mutex
	byTarget map[mount.Target]publication
	byVolume map[string]map[mount.Target]struct{}
	// use is what volumes have held while they were published.
	use map[string]*status.History
}

// publication is a volume at a target.
type publication struct {
	// volume is the volume's ID: that in its pool, also for an inline volume, which requests call
	// by another name.
	volume string
	// exclusive is false also for what was published before the driver started: the mount table
	// does not know it. The request for a second target is then what says that the volume has a
	// single writer.
	exclusive bool
	// pod is the name of the pod, as kubelet has said it; zero for what was published before the
	// driver started.
	pod podName
}

// podName is the name of a pod.
type podName struct{ namespace, name string }

// NewPublications is an empty table.
func NewPublications() *Publications {
	return &Publications{
		byTarget: make(map[mount.Target]publication),
		byVolume: make(map[string]map[mount.Target]struct{}),
		use:      make(map[string]*status.History),
	}
}

// locator says which volume a mount shows. A pool is one.
type locator interface {
	VolumeAt(m mount.Mount) (volume.ID, bool)
}

// Rebuild adds what the mount table says of the volumes of one pool. Its cost grows with the number
// of mounts: once a start.
func (p *Publications) Rebuild(kubeletDir string, volumes locator) error {
	// The mount table has no links in its paths, and the way to kubelet's directory may lead
	// through some.
	resolved, err := filepath.EvalSymlinks(kubeletDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kubelet's directory: %w", err)
	}
	// Nothing is published or unpublished from this pool while the table is read: nobody has found
	// the pool yet.
	mounts, err := mount.Table()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range mounts {
		id, ours := volumes.VolumeAt(m)
		if !ours {
			continue
		}
		// elsewhere it is the operator's own mount
		if target, ok := mount.TargetAt(kubeletDir, resolved, m.Point); ok {
			p.addLocked(target, publication{volume: id.String()})
		}
	}
	return nil
}

func (p *Publications) addLocked(t mount.Target, pub publication) {
	p.forgetLocked(t) // what kubelet calls an inline volume, when its pool says what it is
	p.byTarget[t] = pub
	if p.byVolume[pub.volume] == nil {
		p.byVolume[pub.volume] = make(map[mount.Target]struct{}, 1)
	}
	p.byVolume[pub.volume][t] = struct{}{}
}

// admit enters a publication that is about to be made; undo takes that back if it cannot be.
// Errors: ErrInUse when the target has another volume, or when another target is in the way of a
// single writer.
func (p *Publications) admit(t mount.Target, pub publication) (undo func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	there, known := p.byTarget[t]
	if known && there.volume != pub.volume {
		return nil, fmt.Errorf("%w: volume %s is published at %s", volume.ErrInUse, there.volume, t)
	}
	for other := range p.byVolume[pub.volume] {
		if other != t && (pub.exclusive || p.byTarget[other].exclusive) {
			return nil, fmt.Errorf("%w: volume %s has a single writer and is published at %s",
				volume.ErrInUse, pub.volume, other)
		}
	}
	if known {
		pub.exclusive = pub.exclusive || there.exclusive
		p.byTarget[t] = pub
		return func() { p.enter(t, there) }, nil
	}
	p.addLocked(t, pub)
	return func() { p.forget(t) }, nil
}

func (p *Publications) enter(t mount.Target, pub publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addLocked(t, pub)
}

// forget takes a target out.
func (p *Publications) forget(t mount.Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(t)
}

func (p *Publications) forgetLocked(t mount.Target) {
	pub, ok := p.byTarget[t]
	if !ok {
		return
	}
	delete(p.byTarget, t)
	delete(p.byVolume[pub.volume], t)
	if len(p.byVolume[pub.volume]) == 0 {
		delete(p.byVolume, pub.volume)
		delete(p.use, pub.volume)
	}
}

// noteUse keeps what a volume that is published holds now.
func (p *Publications) noteUse(id string, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byVolume[id]) == 0 {
		return
	}
	if p.use[id] == nil {
		p.use[id] = &status.History{}
	}
	p.use[id].Note(time.Now(), bytes)
}

// Use is what a volume has held over the last day, while it was published, whenever kubelet has
// asked. Nil: it is not published, kubelet has not asked, or nobody counts that.
func (p *Publications) Use(id string) []status.Sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.use[id] == nil {
		return nil
	}
	return p.use[id].Samples(time.Now())
}

// Pods are at most limit of those to which a volume is published, in the order of their UIDs.
func (p *Publications) Pods(id string, limit int) (pods []status.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.podsLocked(maps.Keys(p.byVolume[id]), limit)
}

// PodsAt are at most limit of the pods whose volumes are at those targets, in the order of their
// UIDs.
func (p *Publications) PodsAt(targets []mount.Target, limit int) []status.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.podsLocked(slices.Values(targets), limit)
}

func (p *Publications) podsLocked(targets iter.Seq[mount.Target], limit int) (pods []status.Pod) {
	for t := range targets {
		if len(pods) >= limit {
			break
		}
		if pod := p.byTarget[t].pod; t.PodUID() != "" {
			pods = append(pods, status.Pod{UID: t.PodUID(), Namespace: pod.namespace, Name: pod.name})
		}
	}
	slices.SortFunc(pods, func(a, b status.Pod) int { return cmp.Compare(a.UID, b.UID) })
	return pods
}

// VolumesAt are the volumes published at those targets, each once, in the order of their IDs.
func (p *Publications) VolumesAt(targets []mount.Target) (ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range targets {
		if pub, ok := p.byTarget[t]; ok {
			ids = append(ids, pub.volume)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// at is the volume published at a target.
func (p *Publications) at(t mount.Target) (id string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pub, ok := p.byTarget[t]
	return pub.volume, ok
}

// Targets are where a volume is published, in no order.
func (p *Publications) Targets(id string) []mount.Target {
	p.mu.Lock()
	defer p.mu.Unlock()
	targets := make([]mount.Target, 0, len(p.byVolume[id]))
	for t := range p.byVolume[id] {
		targets = append(targets, t)
	}
	return targets
}

// CheckUnused refuses a volume that a pod can see; the data is the volume's, open. Errors:
// ErrInUse.
func (p *Publications) CheckUnused(id volume.ID, data *os.File) error {
	targets, err := p.verify(id.String(), data)
	if err != nil {
		return err
	}
	if len(targets) > 0 {
		return fmt.Errorf("%w: volume %s is published at %s (targets: %d): delete the pod first",
			volume.ErrInUse, id, targets[0], len(targets))
	}
	return nil
}

// verify drops the targets at which somebody else has unmounted the volume, and returns the others;
// the views are all that may show it. A target that shows none may only be covered by another
// mount: as long as the mount table has any mount of the volume, nothing is dropped.
func (p *Publications) verify(id string, views ...*os.File) ([]mount.Target, error) {
	var current, doubtful []mount.Target
	for _, t := range p.Targets(id) {
		shown, err := showsAny(t, views)
		switch {
		case err != nil:
			return nil, fmt.Errorf("look whether volume %s is still published at %s: %w", id, t, err)
		case shown:
			current = append(current, t)
		default:
			doubtful = append(doubtful, t)
		}
	}
	if len(doubtful) == 0 {
		return current, nil
	}
	points := 0
	for _, view := range views {
		of, err := mount.PointsOf(view)
		if err != nil {
			return nil, fmt.Errorf("look whether volume %s is still mounted: %w", id, err)
		}
		points += len(of)
	}
	if points > len(current) {
		return append(current, doubtful...), nil
	}
	for _, t := range doubtful {
		p.forget(t)
	}
	return current, nil
}

func showsAny(t mount.Target, views []*os.File) (bool, error) {
	for _, view := range views {
		if shown, err := mount.Shows(t, view); shown || err != nil {
			return shown, err
		}
	}
	return false, nil
}
