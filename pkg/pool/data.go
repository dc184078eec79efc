package pool

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// AnyData returns the data of a volume as Data does, also if the volume's record cannot be used.
// Errors: ErrNotFound.
func (p *Pool) AnyData(id volume.ID) (*os.File, error) {
	p.calls.Enter()
	defer p.calls.Leave()
	f, err := backend.OpenDataIn(p.volumes.dir, id.Dir(), unix.O_PATH)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: volume %s has no %s", volume.ErrNotFound, id, backend.Data)
	}
	return f, err
}

func checkFileType(f *os.File, s volume.Spec) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	want := uint32(unix.S_IFDIR)
	if s.Type == volume.FileOrCreate || s.IsImage() {
		want = unix.S_IFREG
	}
	if got := st.Mode & unix.S_IFMT; got != want {
		return fmt.Errorf("it has file type %#o, that of %+v has %#o", got, s, want)
	}
	return nil
}
