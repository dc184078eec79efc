package artifact

import (
	"context"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
	"github.com/csi-hostpath/csi-hostpath/tools/release/oci"
)

// Image is the driver's image for one architecture, and what is in it.
type Image struct {
	Architecture string
	Image        v1.Image
	Programs     []Program
	Packages     []debian.Package
}

// NewImage builds the driver and makes its image. The layer of Debian's files does not depend on
// the driver: releases share it as long as the lock stays.
func (s Source) NewImage(ctx context.Context, base Base, architecture string) (Image, error) {
	image := Image{Architecture: architecture, Packages: base.Lock.Of(architecture)}
	root, err := debian.Root(ctx, base.Description, base.Lock, architecture, base.Cache)
	if err != nil {
		return image, err
	}
	chosen, err := base.Lock.Time()
	if err != nil {
		return image, err
	}
	var files []oci.File
	for _, name := range []string{"csi-hostpath", "csi-hostpath-controller", gitFetcher} {
		program, err := s.Compile(ctx, name, "linux", architecture)
		if err != nil {
			return image, err
		}
		image.Programs = append(image.Programs, program)
		files = append(files, program.File("usr/local/bin/"))
	}
	image.Image, err = oci.Image{
		Architecture: architecture,
		Created:      s.Time,
		Layers: []oci.Layer{
			{Comment: "files of Debian packages: deploy/image/base.lock.json", Files: root, Modified: chosen},
			{Comment: "csi-hostpath " + s.Version, Files: files, Modified: s.Time},
		},
		Entrypoint: []string{"/usr/local/bin/csi-hostpath"},
		Cmd:        []string{"serve"},
		Labels:     s.Labels("A node's own directories, files and images as Kubernetes volumes"),
	}.Build()
	return image, err
}

// Labels are what an artifact says of itself (image-spec, annotations.md).
func (s Source) Labels(description string) map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":       "csi-hostpath",
		"org.opencontainers.image.description": description,
		"org.opencontainers.image.source":      Home,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     s.Version,
		"org.opencontainers.image.created":     s.Time.Format(time.RFC3339),
	}
	if s.Commit != "" {
		labels["org.opencontainers.image.revision"] = s.Commit
	}
	return labels
}
