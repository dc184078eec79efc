// Package projquota holds volumes to their sizes by project quotas, on XFS and ext4 mounted with
// prjquota: a volume's data has a project ID that everything made in it inherits, and the
// filesystem counts and limits the blocks of that ID.
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

// The project IDs of volumes. kubelet takes IDs from 1048577 up (k8s.io/kubernetes
// pkg/volume/util/fsquota/common, FirstQuota), people small ones; these are far from both. ID 0 is
// not only nobody's: its limits are those of every project without its own.
const (
	firstQuotaID volume.QuotaID = 1 << 30
	quotaIDCount                = 1 << 30
)

// Mode says whether volumes are held to their sizes.
type Mode int

const (
	// Enforce holds every volume to its size.
	Enforce Mode = iota
	// Lift makes volumes without limits, and takes the limits off those that have one.
	Lift
)

// ProjectQuota is the backend of one pool.
type ProjectQuota struct {
	quota    quota
	mode     Mode
	quotaIDs *backend.QuotaIDs

	retagging sync.Mutex
}

var (
	_ backend.Backend = (*ProjectQuota)(nil)
	_ backend.Counter = (*ProjectQuota)(nil)
)

// Open is the backend for the filesystem of a directory, which stays the caller's and open; false
// if it does not enforce project quotas. The seed says where the search for free IDs begins.
// Errors: ErrUnavailable for a filesystem whose quotas cannot be reached.
func Open(root *os.File, mode Mode, seed uint64) (*ProjectQuota, bool, error) {
	q, ok, err := findQuota(root)
	if err != nil || !ok {
		return nil, false, err
	}
	return newBackend(q, mode, seed), true, nil
}

func newBackend(q quota, mode Mode, seed uint64) *ProjectQuota {
	return &ProjectQuota{
		quota:    q,
		mode:     mode,
		quotaIDs: backend.NewQuotaIDs(firstQuotaID, quotaIDCount, seed),
	}
}

// Name implements backend.Backend.
func (*ProjectQuota) Name() string { return "projquota" }

// Enforces implements backend.Backend.
func (p *ProjectQuota) Enforces() bool { return p.mode == Enforce }

// LimitsInodes implements backend.Backend.
func (p *ProjectQuota) LimitsInodes() bool { return p.mode == Enforce }

// limits are what the filesystem is told of a volume.
func (p *ProjectQuota) limits(spec volume.Spec, bytes int64) limits {
	if p.mode == Lift {
		return limits{}
	}
	return limits{bytes: bytes, inodes: spec.Inodes}
}

// Make implements backend.Backend.
func (p *ProjectQuota) Make(
	dir *os.File, spec volume.Spec, bytes int64,
) (*os.File, volume.QuotaID, error) {
	if p.mode == Lift {
		f, err := backend.MakeEmpty(dir, spec)
		return f, 0, err
	}
	quotaID, err := p.quotaIDs.Claim(p.quota.unused)
	if err != nil {
		return nil, 0, err
	}
	f, err := p.makeTagged(dir, spec, quotaID, bytes)
	if err != nil {
		// it has no limit; should the data that was removed count for a while, Claim will see that
		p.quotaIDs.Free(quotaID)
		return nil, 0, err
	}
	return f, quotaID, nil
}

// makeTagged gives the data its ID before it gives the ID its limit: what a crash in between leaves
// in tmp/ says which ID it has, and no limit is ever left that belongs to nothing.
func (p *ProjectQuota) makeTagged(
	dir *os.File, spec volume.Spec, quotaID volume.QuotaID, bytes int64,
) (*os.File, error) {
	f, err := backend.MakeEmpty(dir, spec)
	if err != nil {
		return nil, err
	}
	err = setProject(f, quotaID)
	if err == nil {
		err = p.quota.setLimits(quotaID, p.limits(spec, bytes))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), backend.RemoveEmpty(dir, spec.Type))
	}
	return f, nil
}

// Adopt implements backend.Backend: what the record says is true, whatever became of the quota
// while the driver was away. Data without its ID was copied here, or robbed of it: everything in it
// gets the ID, however much that is.
func (p *ProjectQuota) Adopt(
	dir *os.File, quotaID volume.QuotaID, spec volume.Spec, bytes int64,
) (repaired bool, err error) {
	if quotaID == 0 && p.mode == Lift {
		return false, nil
	}
	if !p.quotaIDs.Contains(quotaID) {
		return false, fmt.Errorf(
			"%w: its record has no project ID, but %d: it was made while the filesystem had no quotas, or on another one",
			volume.ErrUnavailable,
			quotaID,
		)
	}
	if !p.quotaIDs.Hold(quotaID) {
		return false, fmt.Errorf("%w: project ID %d belongs to another volume as well", volume.ErrCorrupt,
			quotaID)
	}
	f, err := openData(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	tagged, err := p.ensureTagged(f, quotaID)
	if err != nil {
		return false, err
	}
	limited, err := p.quota.ensureLimits(quotaID, p.limits(spec, bytes))
	return tagged || limited, err
}

// ensureTagged looks at the data itself only: at a start it is as it should be for every volume. It
// is tagged last, so that a crash leaves it for the next start.
func (p *ProjectQuota) ensureTagged(f *os.File, quotaID volume.QuotaID) (changed bool, err error) {
	tagged, err := isTagged(f, quotaID)
	if err != nil || tagged {
		return false, err
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		p.retagging.Lock() // one at a time: it has many descriptors
		err := retag(f, quotaID, retagDepth)
		p.retagging.Unlock()
		if err != nil {
			return false, err
		}
	}
	return ensureProject(f, quotaID)
}

// Hold implements backend.Backend.
func (p *ProjectQuota) Hold(dir *os.File, quotaID volume.QuotaID) volume.QuotaID {
	if quotaID == 0 {
		quotaID = quotaIDOf(dir)
	}
	if !p.quotaIDs.Hold(quotaID) {
		return 0
	}
	return quotaID
}

// quotaIDOf reads the ID of data whose record is gone.
func quotaIDOf(dir *os.File) volume.QuotaID {
	f, err := openData(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	a, err := getAttributes(f)
	if err != nil {
		return 0
	}
	return volume.QuotaID(a.project)
}

// Resize implements backend.Backend.
func (p *ProjectQuota) Resize(
	_ *os.File, quotaID volume.QuotaID, spec volume.Spec, bytes int64,
) error {
	if !p.quotaIDs.Contains(quotaID) {
		return nil
	}
	return p.quota.setLimits(quotaID, p.limits(spec, bytes))
}

// Usage implements backend.Backend. The filesystem can be full before the volume is; then that is
// what is available.
func (p *ProjectQuota) Usage(data *os.File, quotaID volume.QuotaID) (volume.Usage, error) {
	if !p.quotaIDs.Contains(quotaID) {
		return mount.UsageOf(data)
	}
	// Of the pool's directory: statfs(2) of a directory with an ID is about that ID, on ext4 and
	// XFS.
	fs, err := mount.UsageOf(p.quota.root)
	if err != nil {
		return volume.Usage{}, err
	}
	q, err := p.quota.get(quotaID)
	if err != nil {
		return volume.Usage{}, err
	}
	u := fs
	u.UsedBytes = int64(q.curSpace)   //nolint:gosec // less than a filesystem holds
	u.UsedInodes = int64(q.curInodes) //nolint:gosec // as above
	if q.blockHard > 0 {
		u.TotalBytes = limitBytes(q)
		u.AvailableBytes = max(0, min(u.TotalBytes-u.UsedBytes, fs.AvailableBytes))
	}
	if q.inodeHard > 0 {
		u.TotalInodes = int64(q.inodeHard) //nolint:gosec // what setLimits wrote
		u.AvailableInodes = max(0, min(u.TotalInodes-u.UsedInodes, fs.AvailableInodes))
	}
	return u, nil
}

// Allocated implements backend.Counter.
func (p *ProjectQuota) Allocated(_ *os.File, quotaID volume.QuotaID) (int64, error) {
	if !p.quotaIDs.Contains(quotaID) {
		return 0, errors.ErrUnsupported
	}
	q, err := p.quota.get(quotaID)
	return int64(q.curSpace), err //nolint:gosec // less than a filesystem holds
}

// Discard implements backend.Backend: a tree of files is removed file by file.
func (*ProjectQuota) Discard(*os.File) error { return nil }

// Release implements backend.Backend. As long as anything counts it stays limited, and its space is
// not free: a deleted file that somebody has open, or, on XFS, one that was deleted a moment ago
// and that the kernel frees in the background.
func (p *ProjectQuota) Release(quotaID volume.QuotaID) error {
	if !p.quotaIDs.Contains(quotaID) {
		return nil
	}
	q, err := p.quota.get(quotaID)
	switch {
	case err != nil:
		return err
	case !q.isUnused():
		return fmt.Errorf("%w: %d bytes in %d files of project %d", backend.ErrPending, q.curSpace,
			q.curInodes, quotaID)
	}
	if err := p.quota.setLimits(quotaID, limits{}); err != nil {
		return err
	}
	p.quotaIDs.Free(quotaID)
	return nil
}

// openData opens data to read and set its attributes, not its content.
func openData(dir *os.File) (*os.File, error) {
	return backend.OpenData(dir, unix.O_RDONLY|unix.O_NONBLOCK)
}
