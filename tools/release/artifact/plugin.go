package artifact

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/tools/release/oci"
)

const (
	pluginName   = "kubectl-hostpath"
	pluginFolder = "cmd/" + pluginName
	// completion is what kubectl runs to complete the plugin's arguments.
	completion = "kubectl_complete-hostpath"
)

// pluginPlatforms are where people run kubectl.
var pluginPlatforms = [][2]string{
	{"darwin", "amd64"}, {"darwin", "arm64"},
	{"linux", "amd64"}, {"linux", "arm64"},
	{"windows", "amd64"}, {"windows", "arm64"},
}

// PluginArchive is the kubectl plugin for one platform, as krew downloads it.
type PluginArchive struct {
	Name    string
	Program Program
	Content []byte
}

// NewPlugin builds the plugin for all platforms.
func (s Source) NewPlugin(ctx context.Context) ([]PluginArchive, error) {
	license, err := os.ReadFile(s.Path("LICENSE"))
	if err != nil {
		return nil, err
	}
	complete, err := os.ReadFile(s.Path(pluginFolder, completion))
	if err != nil {
		return nil, err
	}
	var archives []PluginArchive
	for _, platform := range pluginPlatforms {
		program, err := s.Compile(ctx, pluginName, platform[0], platform[1])
		if err != nil {
			return nil, err
		}
		archive := PluginArchive{
			Name:    strings.Join([]string{pluginName, s.Version, program.OS, program.Arch}, "_"),
			Program: program,
		}
		files := []oci.File{
			{Path: "LICENSE", Mode: 0o644, Content: license},
			program.File(""),
			{Path: completion, Mode: 0o755, Content: complete},
		}
		if program.OS == "windows" {
			archive.Name += ".zip"
			archive.Content, err = zipped(files, s)
		} else {
			archive.Name += ".tar.gz"
			archive.Content, err = tgz(files, s)
		}
		if err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

func zipped(files []oci.File, source Source) ([]byte, error) {
	var content bytes.Buffer
	out := zip.NewWriter(&content)
	for _, file := range files {
		header := &zip.FileHeader{Name: file.Path, Method: zip.Deflate, Modified: source.Time}
		header.SetMode(file.Mode)
		w, err := out.CreateHeader(header)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(file.Content); err != nil {
			return nil, err
		}
	}
	err := out.Close()
	return content.Bytes(), err
}

// KrewManifest fills the version, the addresses and the checksums of the archives into the plugin's
// manifest for krew (https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/).
func (s Source) KrewManifest(archives []PluginArchive) ([]byte, error) {
	template, err := os.ReadFile(s.Path(pluginFolder, "hostpath.yaml"))
	if err != nil {
		return nil, err
	}
	_, body, found := strings.Cut(string(template), "apiVersion:") // the comment is for the template
	if !found {
		return nil, errors.New("hostpath.yaml has no apiVersion")
	}
	values := []string{"version: VERSION", "version: v" + s.Version, "URL/", s.Asset("")}
	for _, archive := range archives {
		placeholder := "SHA256_" + archive.Program.OS + "_" + archive.Program.Arch
		if !strings.Contains(body, placeholder) {
			return nil, fmt.Errorf("hostpath.yaml does not have %s", placeholder)
		}
		values = append(values, placeholder, sum(archive.Content))
	}
	values = append(values, "VERSION", s.Version)
	filled := strings.NewReplacer(values...).Replace("apiVersion:" + body)
	if strings.Contains(filled, "SHA256_") {
		return nil, errors.New("hostpath.yaml has a platform that is not built")
	}
	return []byte(filled), nil
}
