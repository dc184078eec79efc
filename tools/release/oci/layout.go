package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// refName is where a layout has the tag of what is in it (image-spec, annotations.md).
const refName = "org.opencontainers.image.ref.name"

// WriteIndex writes an index with its images as an OCI layout in a new folder.
func WriteIndex(folder, tag string, index v1.ImageIndex) (v1.Hash, error) {
	path, err := layout.Write(folder, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{refName: tag})); err != nil {
		return v1.Hash{}, err
	}
	return index.Digest()
}

// Artifact is something that is no image, with one layer.
type Artifact struct {
	Config      []byte
	ConfigType  types.MediaType
	Layer       []byte
	LayerType   types.MediaType
	Annotations map[string]string
}

// Write writes the artifact as an OCI layout in a new folder.
func (a Artifact) Write(folder, tag string) (v1.Hash, error) {
	path, err := layout.Write(folder, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	config, err := writeBlob(path, a.Config, a.ConfigType)
	if err != nil {
		return v1.Hash{}, err
	}
	layer, err := writeBlob(path, a.Layer, a.LayerType)
	if err != nil {
		return v1.Hash{}, err
	}
	content, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: config, Layers: []v1.Descriptor{layer}, Annotations: a.Annotations,
	})
	if err != nil {
		return v1.Hash{}, err
	}
	manifest, err := writeBlob(path, content, types.OCIManifestSchema1)
	if err != nil {
		return v1.Hash{}, err
	}
	manifest.Annotations = map[string]string{refName: tag}
	return manifest.Digest, path.AppendDescriptor(manifest)
}

func writeBlob(path layout.Path, content []byte, kind types.MediaType) (v1.Descriptor, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: kind, Size: size, Digest: digest},
		path.WriteBlob(digest, io.NopCloser(bytes.NewReader(content)))
}

// WriteArchive writes an image as `docker save` does. Every engine and containerd load that.
func WriteArchive(path, tag string, image v1.Image) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return fmt.Errorf("name of the image: %w", err)
	}
	return tarball.WriteToFile(path, ref, image)
}

// Pack writes a folder as a tar, such as an OCI layout for a download.
func Pack(path, folder string, modified time.Time) error {
	var files []File
	err := filepath.WalkDir(folder, func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(folder, name)
		files = append(files, File{Path: filepath.ToSlash(inside), Mode: 0o644, Content: content})
		return err
	})
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := WriteTar(out, files, modified); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
