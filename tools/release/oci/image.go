package oci

import (
	"bytes"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Layer is what one step adds to an image.
type Layer struct {
	Comment  string
	Files    []File
	Modified time.Time // of all files
}

// Image is an image of one platform, in order of its layers.
type Image struct {
	Architecture string
	Created      time.Time
	Layers       []Layer
	Entrypoint   []string
	Cmd          []string
	Labels       map[string]string // also the annotations of the manifest
}

// Build makes the image.
func (i Image) Build() (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err := mutate.ConfigFile(image, i.config())
	if err != nil {
		return nil, err
	}
	for _, layer := range i.Layers {
		made, err := layer.build()
		if err != nil {
			return nil, err
		}
		image, err = mutate.Append(image, mutate.Addendum{
			Layer:   made,
			History: v1.History{Created: v1.Time{Time: layer.Modified}, CreatedBy: layer.Comment},
		})
		if err != nil {
			return nil, err
		}
	}
	return mutate.Annotations(image, i.Labels).(v1.Image), nil
}

func (i Image) config() *v1.ConfigFile {
	return &v1.ConfigFile{
		Architecture: i.Architecture,
		OS:           "linux",
		Created:      v1.Time{Time: i.Created},
		Config: v1.Config{
			Entrypoint: i.Entrypoint,
			Cmd:        i.Cmd,
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Labels:     i.Labels,
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
}

func (l Layer) build() (v1.Layer, error) {
	var content bytes.Buffer
	if err := WriteTar(&content, l.Files, l.Modified); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressedCaching)
}

// Index joins the images of several platforms.
func Index(images []v1.Image, annotations map[string]string) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: config.Platform()},
		})
	}
	return mutate.Annotations(index, annotations).(v1.ImageIndex), nil
}
