package repair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The values of Options.Backing, as in a class.
const (
	backingDirectory = "directory"
	backingImage     = "image"
)

// data is what is found in a volume's directory.
type data struct {
	file *os.File // O_PATH
	stat unix.Stat_t
	// isInHolder: it is in a holder, so it is a file volume's and no image.
	isInHolder bool
	changed    time.Time
	// content is that of a regular file that may be an image.
	content image.Content
}

// openData opens the data of a volume's directory. Errors: ErrCorrupt when there are none.
func openData(dir openat.Dir) (*data, error) {
	for _, path := range backend.DataPaths() {
		f, err := dir.Resolve(path, unix.O_PATH, openat.OnMount)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		d := &data{file: f, isInHolder: path != backend.Data}
		if err := unix.Fstat(int(f.Fd()), &d.stat); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		d.changed = time.Unix(d.stat.Mtim.Unix()).UTC()
		return d, nil
	}
	return nil, fmt.Errorf("%w: it has no %s: nothing is left that a record could be of",
		volume.ErrCorrupt, backend.Data)
}

// Close closes the data.
func (d *data) Close() { d.file.Close() }

func (d *data) isDirectory() bool { return d.stat.Mode&unix.S_IFMT == unix.S_IFDIR }

func (d *data) isFile() bool { return d.stat.Mode&unix.S_IFMT == unix.S_IFREG }

// mayBeImage says whether the data may be an image.
func (d *data) mayBeImage() bool { return d.isFile() && !d.isInHolder }

// inspect looks into what may be an image. Errors: ErrCorrupt for what is no volume's data.
func (d *data) inspect(ctx context.Context) (err error) {
	if !d.isDirectory() && !d.isFile() {
		return fmt.Errorf("%w: its data have file type %#o", volume.ErrCorrupt, d.stat.Mode&unix.S_IFMT)
	}
	if d.mayBeImage() {
		d.content, err = image.Inspect(ctx, d.file)
	}
	return err
}

// String says it for people.
func (d *data) String() string {
	switch {
	case d.isDirectory():
		return "directory"
	case d.mayBeImage():
		return "file, or " + d.content.String()
	default:
		return "file"
	}
}

// known is the filesystem in the image; empty if there is none that a volume can have.
func (d *data) known() volume.FSType {
	found := volume.FSType(d.content.Type)
	if d.mayBeImage() && slices.Contains(volume.FSTypes(), found) {
		return found
	}
	return ""
}

// spec is what the volume is. The old specification, which is zero if there is none, is used as far
// as it fits the data. Errors: ErrInvalid.
func (d *data) spec(was volume.Spec, opts Options) (volume.Spec, error) {
	isImage, err := d.isImage(was, opts)
	if err != nil {
		return volume.Spec{}, err
	}
	s := was
	if was.Type == "" {
		s.Mode, s.UID, s.GID = d.stat.Mode&0o7777, d.stat.Uid, d.stat.Gid
	}
	if isImage {
		return d.imageSpec(s, was, opts), nil
	}
	s.Type = volume.DirectoryOrCreate
	if d.isFile() {
		s.Type = volume.FileOrCreate
	}
	if opts.Type != "" && opts.Type != s.Type {
		return volume.Spec{}, fmt.Errorf("%w: --type is %s, and the data are of a %s", volume.ErrInvalid,
			opts.Type, s.Type)
	}
	s.Backing, s.FSType, s.Allocation = volume.DirectoryBacking, "", ""
	return s, nil
}

// isImage says whether the data are an image. Errors: ErrInvalid when that is for the operator to
// say.
func (d *data) isImage(was volume.Spec, opts Options) (bool, error) {
	switch {
	case opts.Backing == backingImage && !d.mayBeImage():
		return false, fmt.Errorf("%w: --backing is image, and the data are no image", volume.ErrInvalid)
	case !d.mayBeImage():
		return false, nil
	case opts.Backing != "":
		return opts.Backing == backingImage, nil
	case was.IsImage():
		return true, nil
	case was.Type == volume.FileOrCreate:
		return false, nil
	case opts.FSType != "", d.known() != "":
		return true, nil
	default:
		return false, fmt.Errorf(
			"%w: its data are a file with no known filesystem: say with --backing whether it is a file volume (%s), "+
				"or a raw block volume (%s, with --fs-type %s)",
			volume.ErrInvalid, backingDirectory, backingImage, NoFilesystem)
	}
}

// imageSpec is the specification of an image.
func (d *data) imageSpec(s, was volume.Spec, opts Options) volume.Spec {
	s.Backing, s.Inodes = volume.ImageBacking, 0
	s.Type = cmp.Or(opts.Type, was.Type, volume.DirectoryOrCreate)
	s.Allocation = cmp.Or(opts.Allocation, was.Allocation, volume.Sparse)
	switch {
	case opts.FSType == NoFilesystem:
		s.FSType = ""
	case opts.FSType != "":
		s.FSType = opts.FSType
	case was.IsBlock(): // its pod may have made a filesystem on it
		s.FSType = ""
	default:
		s.FSType = cmp.Or(d.known(), was.FSType)
	}
	if was.Type == "" { // the mode of the file is not that of what is in it
		s.Mode, s.UID, s.GID = 0o755, 0, 0
		if s.Type == volume.FileOrCreate {
			s.Mode = 0o644
		}
	}
	return s
}

// fillImage fills in the sizes of an image and of its filesystem. Errors: ErrInvalid, ErrCorrupt.
func (d *data) fillImage(v *volume.Volume, opts Options) error {
	v.CapacityBytes, v.SharedBytes, v.QuotaID = d.stat.Size, 0, 0
	v.FilesystemBytes, v.Formatting = 0, false
	found := d.content
	switch {
	case opts.CapacityBytes > 0 && opts.CapacityBytes != d.stat.Size:
		return fmt.Errorf("%w: --capacity is %d, and the image has %d bytes: its file says its size",
			volume.ErrInvalid, opts.CapacityBytes, d.stat.Size)
	case opts.Erase && v.Spec.FSType == "":
		return fmt.Errorf("%w: --erase is for an image with a filesystem", volume.ErrInvalid)
	case v.Spec.FSType == "", found.IsBlank():
		return nil
	case opts.Erase:
		v.Formatting = true
		return nil
	case found.Type != string(v.Spec.FSType):
		return fmt.Errorf(
			"%w: it is to have %s, and there is an %s: look at it with fsck, or, if nobody needs what it holds, give --erase",
			volume.ErrInvalid, v.Spec.FSType, found)
	case found.Bytes > d.stat.Size:
		return fmt.Errorf("%w: there is an %s: the end of it is missing", volume.ErrCorrupt, found)
	default:
		v.FilesystemBytes = max(1, found.Bytes) // staging grows it, and corrects the number
		return nil
	}
}
