package backend

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// DataPaths are where a volume's data can be, relative to its directory.
func DataPaths() []string { return []string{Data, Holder + "/" + Data} }

// IsDataPath says whether a path, relative to a volume's directory, is that of the volume's data.
// Paths below the data belong to pods.
func IsDataPath(path string) bool { return slices.Contains(DataPaths(), path) }

// OpenData opens a volume's data, wherever it is in the volume's directory. No link is followed and
// no mount is crossed. The caller closes the file. Errors: os.ErrNotExist.
func OpenData(dir openat.Dir, flags int) (*os.File, error) {
	return OpenDataIn(dir, ".", flags)
}

// OpenDataIn is OpenData for the volume whose directory has that name in parent.
func OpenDataIn(parent openat.Dir, dirName string, flags int) (*os.File, error) {
	for _, path := range DataPaths() {
		f, err := parent.Resolve(dirName+"/"+path, flags, openat.OnMount)
		if !isAbsent(err) {
			return f, err
		}
	}
	return nil, &os.PathError{Op: "open", Path: dirName + "/" + Data, Err: os.ErrNotExist}
}

// isAbsent says whether nothing that can be data is at a path, which may lead through a link.
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}
