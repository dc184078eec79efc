package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/csi-hostpath/csi-hostpath/tools/release/oci"
)

// Subject is a file or an OCI artifact of the release.
type Subject struct {
	Name   string
	SHA256 string
}

// Release writes a release into a folder.
type Release struct {
	Source  Source
	Base    Base
	Helm    string
	Builder Builder
	Folder  string // is made; must not exist
	Log     func(format string, args ...any)

	subjects []Subject
}

// Write writes the files of the release, and the image and the chart as OCI layouts below oci/.
func (r *Release) Write(ctx context.Context) error {
	if r.Source.Commit == "" || r.Source.Dirty {
		return errors.New("a release is made from a commit: commit or remove what git status shows")
	}
	notes, err := r.Source.Notes()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.Folder), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(r.Folder, 0o755); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{r.chart, r.image, r.plugin} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := r.file("notes.md", []byte(notes+"\n\n"+r.digests())); err != nil {
		return err
	}
	return r.describe()
}

func (r *Release) chart(ctx context.Context) error {
	r.Log("chart")
	chart, err := r.Source.NewChart(ctx, r.Helm, r.Builder.Repository)
	if err != nil {
		return err
	}
	name := "csi-hostpath-" + r.Source.Version + ".tgz"
	if err := r.file(name, chart.Archive); err != nil {
		return err
	}
	digest, err := chart.Write(filepath.Join(r.Folder, "oci/chart"), r.Source)
	r.artifact("oci/chart", digest)
	return err
}

func (r *Release) image(ctx context.Context) error {
	images := make([]v1.Image, 0, len(r.Base.Description.Architectures))
	for _, architecture := range r.Base.Description.Architectures {
		r.Log("image for %s", architecture)
		image, err := r.Source.NewImage(ctx, r.Base, architecture)
		if err != nil {
			return err
		}
		images = append(images, image.Image)
		name := r.name("image-linux-" + architecture)
		sbom, err := r.Source.SBOM(name, image.Programs, image.Packages)
		if err != nil {
			return err
		}
		if err := r.file(name+".spdx.json", sbom); err != nil {
			return err
		}
		digest, err := image.Image.Digest()
		if err != nil {
			return err
		}
		r.artifact("oci/image linux/"+architecture, digest)
	}
	labels := r.Source.Labels("A node's own directories, files and images as Kubernetes volumes")
	index, err := oci.Index(images, labels)
	if err != nil {
		return err
	}
	digest, err := oci.WriteIndex(filepath.Join(r.Folder, "oci/image"), r.Source.Version, index)
	if err != nil {
		return err
	}
	r.artifact("oci/image", digest)
	name := r.name("image.oci.tar")
	if err := oci.Pack(filepath.Join(r.Folder, name), filepath.Join(r.Folder, "oci/image"),
		r.Source.Time); err != nil {
		return err
	}
	return r.listed(name)
}

func (r *Release) plugin(ctx context.Context) error {
	r.Log("kubectl plugin")
	archives, err := r.Source.NewPlugin(ctx)
	if err != nil {
		return err
	}
	var programs []Program
	for _, archive := range archives {
		programs = append(programs, archive.Program)
		if err := r.file(archive.Name, archive.Content); err != nil {
			return err
		}
	}
	name := pluginName + "-" + r.Source.Version
	sbom, err := r.Source.SBOM(name, programs, nil)
	if err != nil {
		return err
	}
	if err := r.file(name+".spdx.json", sbom); err != nil {
		return err
	}
	manifest, err := r.Source.KrewManifest(archives)
	if err != nil {
		return err
	}
	return r.file("hostpath.yaml", manifest)
}

// describe writes the provenance of all, and the checksums of the files.
func (r *Release) describe() error {
	r.Log("provenance, checksums")
	statement, err := r.Source.Provenance(r.subjects, r.Base.Lock, r.Builder)
	if err != nil {
		return err
	}
	if err := r.file(r.name("provenance.json"), statement); err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, subject := range r.subjects {
		if !strings.HasPrefix(subject.Name, "oci/") {
			fmt.Fprintf(&sums, "%s  %s\n", subject.SHA256, subject.Name)
		}
	}
	return os.WriteFile(filepath.Join(r.Folder, "SHA256SUMS"), sums.Bytes(), 0o644)
}

// digests are for people who pin what they install.
func (r *Release) digests() string {
	var text strings.Builder
	text.WriteString("### Digests\n\n")
	for _, subject := range r.subjects {
		if strings.HasPrefix(subject.Name, "oci/") {
			name := strings.TrimPrefix(subject.Name, "oci/")
			fmt.Fprintf(&text, "- %s: `sha256:%s`\n", name, subject.SHA256)
		}
	}
	return text.String()
}

func (r *Release) name(what string) string { return "csi-hostpath-" + r.Source.Version + "-" + what }

func (r *Release) file(name string, content []byte) error {
	if err := os.WriteFile(filepath.Join(r.Folder, name), content, 0o644); err != nil {
		return err
	}
	return r.listed(name)
}

// listed makes a file that is there a subject.
func (r *Release) listed(name string) error {
	content, err := os.ReadFile(filepath.Join(r.Folder, name))
	if err != nil {
		return err
	}
	r.subjects = append(r.subjects, Subject{Name: name, SHA256: sum(content)})
	return nil
}

func (r *Release) artifact(name string, digest v1.Hash) {
	r.subjects = append(r.subjects, Subject{Name: name, SHA256: digest.Hex})
}

// Subjects are what Write has written, in the order of their names.
func (r *Release) Subjects() []Subject {
	sorted := slices.Clone(r.subjects)
	slices.SortFunc(sorted, func(a, b Subject) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

func sum(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}
