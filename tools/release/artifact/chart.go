package artifact

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.yaml.in/yaml/v3"

	"github.com/csi-hostpath/csi-hostpath/tools/release/oci"
)

// The types of a chart in a registry: https://helm.sh/docs/topics/registries/#chart-manifest
const (
	chartConfig  = "application/vnd.cncf.helm.config.v1+json"
	chartContent = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// localImage is what the chart of a checkout asks for.
const localImage = "repository: localhost/csi-hostpath"

// Chart is the Helm chart as `helm package` makes it.
type Chart struct {
	Archive  []byte // .tgz
	Metadata []byte // Chart.yaml as JSON
}

// NewChart packs the chart. Helm checks it, and gives the files the time of the day: they get the
// source's. With a repository the chart asks for that image instead of one of the node's own.
func (s Source) NewChart(ctx context.Context, helm, repository string) (Chart, error) {
	var chart Chart
	folder, err := os.MkdirTemp("", "chart-")
	if err != nil {
		return chart, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	cmd := exec.CommandContext(ctx, helm, "package", s.Path("deploy/helm/csi-hostpath"),
		"--version", s.Version, "--app-version", s.Version, "--destination", folder)
	if out, err := cmd.CombinedOutput(); err != nil {
		return chart, fmt.Errorf("helm package: %w: %s", err, out)
	}
	packed, err := os.Open(filepath.Join(folder, "csi-hostpath-"+s.Version+".tgz"))
	if err != nil {
		return chart, err
	}
	defer func() { _ = packed.Close() }()
	unzipped, err := gzip.NewReader(packed)
	if err != nil {
		return chart, err
	}
	files, err := oci.ReadTar(unzipped)
	if err != nil {
		return chart, err
	}
	if err := chart.edit(files, repository); err != nil {
		return chart, err
	}
	chart.Archive, err = tgz(files, s)
	return chart, err
}

// edit sets the image, and keeps what Chart.yaml says.
func (c *Chart) edit(files []oci.File, repository string) error {
	for i, file := range files {
		switch file.Path {
		case "csi-hostpath/Chart.yaml":
			var metadata map[string]any
			if err := yaml.Unmarshal(file.Content, &metadata); err != nil {
				return err
			}
			var err error
			if c.Metadata, err = json.Marshal(metadata); err != nil {
				return err
			}
		case "csi-hostpath/values.yaml":
			if repository == "" {
				continue
			}
			if bytes.Count(file.Content, []byte(localImage)) != 1 {
				return fmt.Errorf("values.yaml does not have %q once", localImage)
			}
			files[i].Content = bytes.Replace(file.Content, []byte(localImage),
				[]byte("repository: "+repository), 1)
		}
	}
	if c.Metadata == nil {
		return errors.New("helm packed no csi-hostpath/Chart.yaml")
	}
	return nil
}

// Write writes the chart as an OCI layout in a new folder.
func (c Chart) Write(folder string, source Source) (v1.Hash, error) {
	return oci.Artifact{
		Config: c.Metadata, ConfigType: chartConfig,
		Layer: c.Archive, LayerType: chartContent,
		Annotations: source.Labels("The Helm chart of csi-hostpath"),
	}.Write(folder, source.Version)
}

// tgz has no name and no time in its header.
func tgz(files []oci.File, source Source) ([]byte, error) {
	var content bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&content, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	err = errors.Join(oci.WriteTar(zipped, files, source.Time), zipped.Close())
	return content.Bytes(), err
}
