package pool

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// OpenImage opens the image of a volume with O_PATH, for a loop device. It is as large as the
// record says. The caller closes it. Errors: ErrCorrupt.
func (v Volume) OpenImage() (*os.File, error) {
	if err := v.syncUnsynced(); err != nil {
		return nil, err
	}
	f, err := v.Data()
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (!v.Spec.IsImage() || st.Size != v.CapacityBytes) {
		err = fmt.Errorf(
			"%w: the image of volume %s has %d bytes, and its record says %d: it is not used. %s",
			volume.ErrCorrupt, v.ID, st.Size, v.CapacityBytes, v.RepairHint())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// RepairHint says what an operator can do about a record that does not fit the volume's data.
func (v Volume) RepairHint() string {
	return fmt.Sprintf("If the record is wrong, stop the driver on this node, and run "+
		"csi-hostpath repair --pool %s --volume %s", v.pool.opts.Path, v.ID)
}
