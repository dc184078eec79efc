package projquota

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// blockUnit is the unit of st_blocks (stat(2)), in bytes.
const blockUnit = 512

// Overcharge implements backend.Auditor. What counts is read before and after the walk, and the
// smaller number is used: what is deleted meanwhile is no overcharge.
func (p *ProjectQuota) Overcharge(
	data *os.File, quotaID volume.QuotaID, proceed func() error,
) (backend.Overcharge, error) {
	if !p.quotaIDs.Contains(quotaID) {
		return backend.Overcharge{}, errors.ErrUnsupported
	}
	before, err := p.quota.get(quotaID)
	if err != nil {
		return backend.Overcharge{}, err
	}
	own, err := sizeOfTree(data, quotaID, proceed)
	if err != nil {
		return backend.Overcharge{}, err
	}
	after, err := p.quota.get(quotaID)
	if err != nil {
		return backend.Overcharge{}, err
	}
	//nolint:gosec // less than a filesystem holds
	return backend.Overcharge{
		Bytes:  max(0, int64(min(before.curSpace, after.curSpace))-own.bytes),
		Inodes: max(0, int64(min(before.curInodes, after.curInodes))-int64(own.inodes)),
	}, nil
}

// treeSize is what the files of a tree occupy.
type treeSize struct {
	bytes  int64
	inodes float64
}

// add counts one name of a file. A file with several names has all of them in its volume, because
// no file has names in two projects (EXDEV of link(2)).
func (s *treeSize) add(st unix.Stat_t) {
	names := int64(1)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		names = max(1, int64(st.Nlink)) //nolint:gosec // the kernel's int
	}
	s.bytes += st.Blocks * blockUnit / names
	s.inodes += 1 / float64(names)
}

// sizeOfTree adds up what of a volume's data counts for its project. The project of a special file
// cannot be read: it is taken for the volume's. A directory that cannot be read is an error.
func sizeOfTree(
	data *os.File, id volume.QuotaID, proceed func() error,
) (sum treeSize, err error) {
	w := treeWalk{
		visit: func(f *os.File, _ string) error {
			if err := proceed(); err != nil {
				return err
			}
			a, err := getAttributes(f)
			if err != nil || volume.QuotaID(a.project) != id {
				return err
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				return os.NewSyscallError("fstat", err)
			}
			sum.add(st)
			return nil
		},
		special: func(st unix.Stat_t) { sum.add(st) },
		failed:  func(_ string, err error) error { return err },
	}
	if err := w.visit(data, ""); err != nil {
		return sum, err
	}
	info, err := data.Stat()
	if err != nil || !info.IsDir() {
		return sum, err
	}
	return sum, w.below(data, "", assignDepth)
}
