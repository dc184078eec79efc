// Package projquota enforces sizes with project quotas, on XFS and ext4 mounted with prjquota. A
// volume's data has a project ID, which everything that is made in it inherits. The filesystem
// counts and limits the blocks and inodes of that ID.
package projquota

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The project IDs of volumes. kubelet uses IDs from 1048577 on (k8s.io/kubernetes
// pkg/volume/util/fsquota/common, FirstQuota) and people use small ones (/etc/projects): these are
// far from both. A new one is random, so that no pod can guess its neighbour's.
// ID 0 means no project; its limits would be those of every project without limits of its own.
const (
	firstQuotaID volume.QuotaID = 1 << 30
	quotaIDCount                = 1 << 30
)

// Mode says whether sizes are enforced.
type Mode int

const (
	// Enforce limits every volume to its size.
	Enforce Mode = iota
	// Lift makes volumes without limits, and removes the limits of those that have one.
	Lift
)

// ProjectQuota is the backend of one pool.
type ProjectQuota struct {
	quota    quota
	mode     Mode
	quotaIDs *backend.QuotaIDs

	assigning sync.Mutex // held while assignProject runs: one at a time, for it has many descriptors
}

var (
	_ backend.Backend = (*ProjectQuota)(nil)
	_ backend.Counter = (*ProjectQuota)(nil)
	_ backend.Retirer = (*ProjectQuota)(nil)
	_ backend.Auditor = (*ProjectQuota)(nil)
)

// Open returns the backend for the filesystem of a directory; false if the filesystem does not
// enforce project quotas. The directory stays open while the backend is used, and the caller closes
// it. Errors: ErrUnavailable if the quotas cannot be set.
func Open(root *os.File, mode Mode) (*ProjectQuota, bool, error) {
	q, ok, err := findQuota(root)
	if err != nil || !ok {
		return nil, false, err
	}
	return newBackend(q, mode), true, nil
}

func newBackend(q quota, mode Mode) *ProjectQuota {
	return &ProjectQuota{
		quota:    q,
		mode:     mode,
		quotaIDs: backend.NewQuotaIDs(firstQuotaID, quotaIDCount),
	}
}

// Name implements backend.Backend.
func (*ProjectQuota) Name() string { return "projquota" }

// Enforces implements backend.Backend.
func (p *ProjectQuota) Enforces() bool { return p.mode == Enforce }

// LimitsInodes implements backend.Backend.
func (p *ProjectQuota) LimitsInodes() bool { return p.mode == Enforce }

// limits returns the limits of a volume's project.
func (p *ProjectQuota) limits(spec volume.Spec, bytes int64) limits {
	if p.mode == Lift {
		return limits{}
	}
	return limits{bytes: bytes, inodes: spec.Inodes}
}

// Make implements backend.Backend.
func (p *ProjectQuota) Make(
	dir openat.Dir, spec volume.Spec, bytes int64,
) (*os.File, volume.QuotaID, error) {
	if p.mode == Lift {
		f, err := backend.MakeEmpty(dir, spec)
		return f, 0, err
	}
	quotaID, err := p.quotaIDs.Allocate(p.quota.isFree)
	if err != nil {
		return nil, 0, err
	}
	f, err := p.makeWithProject(dir, spec, quotaID, bytes)
	if err != nil {
		// The ID has no limit. While the removed data still counts, Allocate does not return the ID.
		p.quotaIDs.Free(quotaID)
		return nil, 0, err
	}
	return f, quotaID, nil
}

// makeWithProject gives the data its ID before it gives the ID its limit: if a crash comes in
// between, the data in tmp/ has the ID, and no limit is left without data.
func (p *ProjectQuota) makeWithProject(
	dir openat.Dir, spec volume.Spec, quotaID volume.QuotaID, bytes int64,
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

// Adopt implements backend.Backend. The record counts, whatever was done to the quota while the
// driver was not running. If the data has no ID, it was copied here, or somebody has removed the
// ID: then everything in it gets the ID.
func (p *ProjectQuota) Adopt(
	dir openat.Dir, quotaID volume.QuotaID, spec volume.Spec, bytes int64,
) (repaired bool, err error) {
	if quotaID == 0 && p.mode == Lift {
		return false, nil
	}
	if !p.quotaIDs.Contains(quotaID) {
		return false, fmt.Errorf(
			"%w: its record has no project ID, but %d: it was made while the filesystem had no quotas, or on another one",
			volume.ErrUnavailable, quotaID)
	}
	if !p.quotaIDs.Reserve(quotaID) {
		return false, fmt.Errorf("%w: project ID %d belongs to another volume as well",
			volume.ErrCorrupt, quotaID)
	}
	f, err := openData(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	assigned, err := p.ensureProjectOfTree(f, quotaID)
	if err != nil {
		return false, err
	}
	limited, err := p.quota.ensureLimits(quotaID, p.limits(spec, bytes))
	return assigned || limited, err
}

// ensureProjectOfTree gives the data and everything in it the ID, unless the data itself has it: at
// a start it has, for almost every volume. The data itself gets the ID last, so that after a crash
// the next start does it again.
func (p *ProjectQuota) ensureProjectOfTree(
	f *os.File, quotaID volume.QuotaID,
) (changed bool, err error) {
	assigned, err := hasProject(f, quotaID)
	if err != nil || assigned {
		return false, err
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		p.assigning.Lock()
		err := assignProject(f, quotaID)
		p.assigning.Unlock()
		if err != nil {
			return false, err
		}
	}
	return ensureProject(f, quotaID)
}

// ReserveQuotaID implements backend.Backend.
func (p *ProjectQuota) ReserveQuotaID(dir openat.Dir, quotaID volume.QuotaID) volume.QuotaID {
	if quotaID == 0 {
		quotaID = quotaIDOf(dir)
	}
	if !p.quotaIDs.Reserve(quotaID) {
		return 0
	}
	return quotaID
}

// quotaIDOf reads the ID of data that has no record.
func quotaIDOf(dir openat.Dir) volume.QuotaID {
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
	_ openat.Dir, quotaID volume.QuotaID, spec volume.Spec, bytes int64,
) error {
	if !p.quotaIDs.Contains(quotaID) {
		return nil
	}
	return p.quota.setLimits(quotaID, p.limits(spec, bytes))
}

// Usage implements backend.Backend. If the filesystem has less space than the volume, that is what
// is available.
func (p *ProjectQuota) Usage(data *os.File, quotaID volume.QuotaID) (volume.Usage, error) {
	if !p.quotaIDs.Contains(quotaID) {
		return mount.UsageOf(data)
	}
	// The pool's directory has no ID: on ext4 and XFS, statfs(2) of a directory with an ID returns the
	// numbers of that ID.
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

// Discard implements backend.Backend. Only whole files can be removed, which the caller does.
func (*ProjectQuota) Discard(openat.Dir) error { return nil }

// Release implements backend.Backend. The limit stays while anything counts for the ID: a deleted
// file that a process has open, or, on XFS, a file that was deleted a moment ago and that the
// kernel frees in the background.
func (p *ProjectQuota) Release(quotaID volume.QuotaID) error {
	if !p.quotaIDs.Contains(quotaID) {
		return nil
	}
	q, err := p.quota.get(quotaID)
	switch {
	case err != nil:
		return err
	case !q.isUnused():
		return fmt.Errorf("%w: %d bytes in %d files of project %d",
			backend.ErrPending, q.curSpace, q.curInodes, quotaID)
	}
	if err := p.quota.setLimits(quotaID, limits{}); err != nil {
		return err
	}
	p.quotaIDs.Free(quotaID)
	return nil
}

// Retire implements backend.Retirer. The owner of a file may charge it to any project. Whoever does
// that, or has a deleted file open, cannot write more to it: the limit becomes what counts. It is
// removed by Release. If the driver ends before that, the limit stays, and keeps the ID from being
// given to a new volume.
func (p *ProjectQuota) Retire(quotaID volume.QuotaID) (leftBytes int64, err error) {
	if !p.quotaIDs.Contains(quotaID) {
		return 0, nil
	}
	q, err := p.quota.get(quotaID)
	if err != nil {
		return 0, err
	}
	leftBytes = int64(q.curSpace) //nolint:gosec // less than a filesystem holds
	if p.mode == Lift {
		return leftBytes, nil
	}
	// 0 would be no limit.
	return leftBytes, p.quota.setLimits(quotaID,
		limits{bytes: max(1, leftBytes), inodes: max(1, q.curInodes)})
}

// openData opens data in order to read and set its project ID.
func openData(dir openat.Dir) (*os.File, error) {
	return backend.OpenData(dir, unix.O_RDONLY|unix.O_NONBLOCK)
}
