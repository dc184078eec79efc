// Package oci makes container images and other artifacts as files, without a registry or an engine.
// The same input gives the same bytes: entries are sorted, owners are root, times are given.
package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// File is a file, a directory or a symbolic link of root's.
type File struct {
	Path    string // without a leading slash
	Mode    fs.FileMode
	Content []byte
	Link    string
}

// WriteTar writes files in the order of their paths. Missing parents are made with mode 0755.
func WriteTar(w io.Writer, files []File, modified time.Time) error {
	out := tar.NewWriter(w)
	for _, file := range withParents(files) {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: file.Path, Mode: mode(file.Mode),
			Size: int64(len(file.Content)), ModTime: modified, Format: tar.FormatUSTAR,
		}
		switch {
		case file.Mode.IsDir():
			header.Typeflag, header.Name = tar.TypeDir, file.Path+"/"
		case file.Link != "":
			header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, file.Link, 0o777
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := out.Write(file.Content); err != nil {
			return err
		}
	}
	return out.Close()
}

// mode is the permissions as tar has them.
func mode(m fs.FileMode) int64 {
	bits := int64(m.Perm())
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

func withParents(files []File) []File {
	present := map[string]bool{}
	for _, file := range files {
		present[file.Path] = true
	}
	all := slices.Clone(files)
	for _, file := range files {
		for dir := path.Dir(file.Path); dir != "." && !present[dir]; dir = path.Dir(dir) {
			present[dir] = true
			all = append(all, File{Path: dir, Mode: fs.ModeDir | 0o755})
		}
	}
	slices.SortFunc(all, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return all
}

// ReadTar returns the files and links of a tar. Directories are left out.
func ReadTar(r io.Reader) ([]File, error) {
	var files []File
	in := tar.NewReader(r)
	for {
		header, err := in.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		file := File{
			Path: strings.TrimPrefix(path.Clean("/"+header.Name), "/"),
			Mode: fs.FileMode(header.Mode).Perm(),
			Link: header.Linkname,
		}
		switch header.Typeflag {
		case tar.TypeReg:
			var content bytes.Buffer
			if _, err := io.Copy(&content, in); err != nil {
				return nil, err
			}
			file.Content = content.Bytes()
		case tar.TypeSymlink:
		case tar.TypeLink: // a hard link names a path in the archive
			file.Link = path.Clean("/" + header.Linkname)
		default:
			continue
		}
		files = append(files, file)
	}
}
