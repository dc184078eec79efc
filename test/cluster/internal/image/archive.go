// Package image makes container images without a registry or an engine: tar
// archives in the form of `docker save`, which containerd imports.
package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Config is what an image says of itself.
type Config struct {
	// Name is the full reference with a tag, such as example.test/books:dev.
	Name       string
	Entrypoint []string
	Cmd        []string
	Env        []string
	// User is a numeric "uid[:gid]"; empty is root.
	User       string
	WorkingDir string
}

// Write makes a one-layer image archive at path, which appears only when it is
// complete. fill puts the files in.
func Write(path string, config Config, fill func(*Layer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	layer, err := os.CreateTemp(filepath.Dir(path), ".layer-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(layer.Name()); _ = layer.Close() }()
	digest, err := writeLayer(layer, fill)
	if err != nil {
		return fmt.Errorf("image %s: %w", config.Name, err)
	}
	archive, err := os.CreateTemp(filepath.Dir(path), ".image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(archive.Name()); _ = archive.Close() }()
	if err := writeArchive(archive, config, layer, digest); err != nil {
		return fmt.Errorf("image %s: %w", config.Name, err)
	}
	if err := archive.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(archive.Name(), path)
}

// writeLayer returns the SHA-256 of the layer's tar, in hexadecimal.
func writeLayer(file *os.File, fill func(*Layer) error) (string, error) {
	hash := sha256.New()
	layer := &Layer{tar: tar.NewWriter(io.MultiWriter(file, hash)), made: map[string]bool{}}
	if err := fill(layer); err != nil {
		return "", err
	}
	if err := layer.tar.Close(); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func writeArchive(file *os.File, config Config, layer *os.File, digest string) error {
	configJSON, err := json.Marshal(imageConfig(config, digest))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(configJSON)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{
		{
			"Config":   configName,
			"RepoTags": []string{config.Name},
			"Layers":   []string{digest + "/layer.tar"},
		},
	})
	if err != nil {
		return err
	}
	info, err := layer.Stat()
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	archive := tar.NewWriter(file)
	if err := addBytes(archive, "manifest.json", manifest); err != nil {
		return err
	}
	if err := addBytes(archive, configName, configJSON); err != nil {
		return err
	}
	if err := archive.WriteHeader(
		&tar.Header{Name: digest + "/layer.tar", Mode: 0o644, Size: info.Size()},
	); err != nil {
		return err
	}
	if _, err := io.Copy(archive, layer); err != nil {
		return err
	}
	return archive.Close()
}

// imageConfig is the OCI image configuration (image-spec, config.md).
func imageConfig(config Config, digest string) map[string]any {
	return map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": config.Entrypoint,
			"Cmd":        config.Cmd,
			"Env":        environment(config),
			"User":       config.User,
			"WorkingDir": config.WorkingDir,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
	}
}

// environment has a PATH in any case.
func environment(config Config) []string {
	for _, variable := range config.Env {
		if strings.HasPrefix(variable, "PATH=") {
			return config.Env
		}
	}
	return append(
		[]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		config.Env...)
}

func addBytes(archive *tar.Writer, name string, data []byte) error {
	if err := archive.WriteHeader(
		&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))},
	); err != nil {
		return err
	}
	_, err := archive.Write(data)
	return err
}
