// Package projquota holds volumes to their sizes by project quotas, on XFS and ext4 mounted with prjquota: a volume's data has a
// project ID that everything made in it inherits, and the filesystem counts and limits the blocks of that ID.
package projquota

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The project IDs of volumes. kubelet takes IDs from 1048577 up (k8s.io/kubernetes pkg/volume/util/fsquota/common, FirstQuota), people
// small ones; these are far from both.
const (
	firstTag backend.Tag = 1 << 30
	tagCount             = 1 << 30
)

// ProjectQuota is the backend of one pool.
type ProjectQuota struct {
	quota quota

	mu   sync.Mutex
	used map[backend.Tag]struct{}
	next backend.Tag
}

var _ backend.Backend = (*ProjectQuota)(nil)

// Open is the backend for the filesystem of a directory; false if that does not enforce project quotas. The seed says where the search
// for free IDs begins: two pools of one filesystem begin apart.
func Open(root *os.File, seed uint32) (*ProjectQuota, bool, error) {
	q := quota{root: root}
	enforced, err := q.enforced()
	if err != nil || !enforced {
		return nil, false, err
	}
	return &ProjectQuota{quota: q, used: make(map[backend.Tag]struct{}), next: firstTag + backend.Tag(seed%tagCount)}, true, nil
}

// Name implements backend.Backend.
func (*ProjectQuota) Name() string { return "projquota" }

// Enforces implements backend.Backend.
func (*ProjectQuota) Enforces() bool { return true }

// Make implements backend.Backend.
func (p *ProjectQuota) Make(dir *os.File, name string, spec volume.Spec, bytes int64) (*os.File, backend.Tag, error) {
	tag, err := p.claim()
	if err != nil {
		return nil, 0, err
	}
	f, err := p.makeTagged(dir, name, spec, tag, bytes)
	if err != nil {
		return nil, 0, errors.Join(err, p.Release(tag))
	}
	return f, tag, nil
}

// makeTagged sets the limit before there is anything that could exceed it.
func (p *ProjectQuota) makeTagged(dir *os.File, name string, spec volume.Spec, tag backend.Tag, bytes int64) (*os.File, error) {
	if err := p.quota.setLimit(tag, bytes); err != nil {
		return nil, err
	}
	f, err := backend.MakeEmpty(dir, name, spec)
	if err != nil {
		return nil, err
	}
	if err := setProject(f, tag); err != nil {
		return nil, errors.Join(err, f.Close(), remove(dir, name, spec.Type))
	}
	return f, nil
}

func remove(dir *os.File, name string, t volume.Type) error {
	flags := unix.AT_REMOVEDIR
	if t == volume.FileOrCreate {
		flags = 0
	}
	return unix.Unlinkat(int(dir.Fd()), name, flags)
}

// claim finds an ID that no volume of the pool has, and that nobody else of the filesystem has ever used.
func (p *ProjectQuota) claim() (backend.Tag, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range tagCount {
		tag := p.next
		p.next = firstTag + (p.next-firstTag+1)%tagCount
		if _, taken := p.used[tag]; taken {
			continue
		}
		free, err := p.quota.unused(tag)
		if err != nil {
			return 0, err
		}
		if free {
			p.used[tag] = struct{}{}
			return tag, nil
		}
	}
	return 0, fmt.Errorf("%w: every project ID from %d to %d is taken", volume.ErrNoSpace, firstTag, firstTag+tagCount-1)
}

// Adopt implements backend.Backend: what the record says is true, whatever became of the quota while the driver was away.
func (p *ProjectQuota) Adopt(dir *os.File, name string, tag backend.Tag, bytes int64) error {
	if tag < firstTag {
		return fmt.Errorf("%w: its record has project ID %d, so its size is not enforced: it was made while the filesystem had no quotas",
			volume.ErrUnavailable, tag)
	}
	p.mu.Lock()
	_, taken := p.used[tag]
	p.used[tag] = struct{}{}
	p.mu.Unlock()
	if taken {
		return fmt.Errorf("%w: project ID %d belongs to another volume as well", volume.ErrCorrupt, tag)
	}
	f, err := openData(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := project(f)
	if err != nil {
		return err
	}
	if have != tag {
		return fmt.Errorf("%w: its data has project ID %d, its record %d", volume.ErrCorrupt, have, tag)
	}
	return p.quota.ensureLimit(tag, bytes)
}

// Resize implements backend.Backend.
func (p *ProjectQuota) Resize(tag backend.Tag, bytes int64) error {
	return p.quota.setLimit(tag, bytes)
}

// Usage implements backend.Backend. The filesystem can be full before the volume is; then that is what is available.
func (p *ProjectQuota) Usage(data *os.File, tag backend.Tag) (volume.Usage, error) {
	fs, err := mount.UsageOf(p.quota.root)
	if err != nil {
		return volume.Usage{}, err
	}
	if tag == 0 {
		return mount.UsageOf(data)
	}
	q, err := p.quota.get(tag)
	if err != nil {
		return volume.Usage{}, err
	}
	u := volume.Usage{
		TotalBytes:  limitBytes(q),
		UsedBytes:   int64(q.curSpace),  //nolint:gosec // less than a filesystem holds
		UsedInodes:  int64(q.curInodes), //nolint:gosec // as above
		TotalInodes: fs.TotalInodes,
	}
	u.AvailableBytes = max(0, min(u.TotalBytes-u.UsedBytes, fs.AvailableBytes))
	u.AvailableInodes = fs.AvailableInodes
	return u, nil
}

// TagOf implements backend.Backend.
func (*ProjectQuota) TagOf(dir *os.File, name string) backend.Tag {
	f, err := openData(dir, name)
	if err != nil {
		return 0
	}
	defer f.Close()
	tag, err := project(f)
	if err != nil || tag < firstTag {
		return 0
	}
	return tag
}

// Release implements backend.Backend.
func (p *ProjectQuota) Release(tag backend.Tag) error {
	if tag < firstTag {
		return nil
	}
	err := p.quota.setLimit(tag, 0)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, tag)
	return err
}
