package image

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// Layer collects the files of an image. Names are absolute paths in the image;
// missing parents are made. Times are zero, so that equal files give equal images.
type Layer struct {
	tar  *tar.Writer
	made map[string]bool
}

// Directory makes a directory of root's.
func (l *Layer) Directory(name string, mode fs.FileMode) error {
	name = clean(name)
	if name == "" || l.made[name] {
		return nil
	}
	if err := l.parents(name); err != nil {
		return err
	}
	l.made[name] = true
	return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: tarMode(mode)})
}

// Bytes makes a regular file of root's.
func (l *Layer) Bytes(name string, data []byte, mode fs.FileMode) error {
	name = clean(name)
	if err := l.parents(name); err != nil {
		return err
	}
	header := &tar.Header{
		Typeflag: tar.TypeReg,
		Name:     name,
		Mode:     tarMode(mode),
		Size:     int64(len(data)),
	}
	if err := l.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := l.tar.Write(data)
	return err
}

// File copies a file of the host, as root's.
func (l *Layer) File(name, source string, mode fs.FileMode) error {
	name = clean(name)
	if err := l.parents(name); err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: tarMode(mode), Size: info.Size()}
	return l.copyFile(header, source)
}

// Link makes a symbolic link.
func (l *Layer) Link(name, target string) error {
	name = clean(name)
	if err := l.parents(name); err != nil {
		return err
	}
	return l.tar.WriteHeader(
		&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777},
	)
}

// Tree copies a folder to a place in the image, with its owners and modes. Devices
// and sockets are left out: a container gets its own.
func (l *Layer) Tree(place, root string) error {
	if err := l.Directory(place, 0o755); err != nil {
		return err
	}
	return filepath.WalkDir(root, func(source string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, source)
		if err != nil || relative == "." {
			return err
		}
		return l.treeEntry(clean(path.Join(place, filepath.ToSlash(relative))), source, entry)
	})
}

func (l *Layer) treeEntry(name, source string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.IsDir(), info.Mode().IsRegular():
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(source); err != nil {
			return err
		}
	default:
		return nil
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	owned := tar.Header{
		Typeflag: header.Typeflag,
		Name:     name,
		Linkname: link,
		Mode:     header.Mode,
		Size:     header.Size,
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owned.Uid, owned.Gid = int(st.Uid), int(st.Gid)
	}
	if info.IsDir() {
		owned.Name += "/"
		l.made[name] = true
	}
	if info.Mode().IsRegular() {
		return l.copyFile(&owned, source)
	}
	return l.tar.WriteHeader(&owned)
}

func (l *Layer) copyFile(header *tar.Header, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := l.tar.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.CopyN(l.tar, file, header.Size); err != nil {
		return fmt.Errorf("copy %s into the image: %w", source, err)
	}
	return nil
}

func (l *Layer) parents(name string) error {
	if parent := path.Dir(name); parent != "." {
		return l.Directory(parent, 0o755)
	}
	return nil
}

// clean turns /a/../b into b, the form that archives hold.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// tarMode puts Go's sticky and set-ID bits where tar has them.
func tarMode(mode fs.FileMode) int64 {
	bits := int64(mode.Perm())
	for flag, bit := range map[fs.FileMode]int64{
		fs.ModeSticky: 0o1000, fs.ModeSetgid: 0o2000, fs.ModeSetuid: 0o4000,
	} {
		if mode&flag != 0 {
			bits |= bit
		}
	}
	return bits
}
