package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Push sends the one image, index or artifact of a layout to a repository, under the tag that the
// layout has, and returns the reference by digest. The credentials are those of `docker login`. A
// tag that is there with another digest is an error: a release never changes.
func Push(ctx context.Context, folder, repository string) (name.Digest, error) {
	path, err := layout.FromPath(folder)
	if err != nil {
		return name.Digest{}, err
	}
	index, err := path.ImageIndex()
	if err != nil {
		return name.Digest{}, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return name.Digest{}, err
	}
	if len(manifest.Manifests) != 1 {
		return name.Digest{}, fmt.Errorf("%s has %d manifests: want 1", folder, len(manifest.Manifests))
	}
	content := manifest.Manifests[0]
	target, err := name.NewTag(repository + ":" + content.Annotations[refName])
	if err != nil {
		return name.Digest{}, err
	}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
	}
	if err := checkFree(target, content.Digest, options); err != nil {
		return name.Digest{}, err
	}
	return target.Digest(content.Digest.String()), write(target, index, content, options)
}

func checkFree(target name.Tag, digest v1.Hash, options []remote.Option) error {
	there, err := remote.Head(target, options...)
	if err != nil {
		var refused *transport.Error
		if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
			return nil
		}
		return err
	}
	if there.Digest != digest {
		return fmt.Errorf("%s is there, with the digest %s: a release never changes", target, there.Digest)
	}
	return nil
}

func write(
	target name.Tag, index v1.ImageIndex, content v1.Descriptor, options []remote.Option,
) error {
	if content.MediaType.IsIndex() {
		inner, err := index.ImageIndex(content.Digest)
		if err != nil {
			return err
		}
		return remote.WriteIndex(target, inner, options...)
	}
	image, err := index.Image(content.Digest)
	if err != nil {
		return err
	}
	return remote.Write(target, image, options...)
}
