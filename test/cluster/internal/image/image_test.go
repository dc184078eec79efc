package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// untar returns the headers and contents of an archive by name.
func untar(t *testing.T, data []byte) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	reader := tar.NewReader(bytes.NewReader(data))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		headers[header.Name], contents[header.Name] = header, content
	}
}

// layerOf returns the files of an image archive's only layer, and the image's names.
func layerOf(t *testing.T, path string) (headers map[string]*tar.Header, tags []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, files := untar(t, data)
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	layer := files[manifest[0].Layers[0]]
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"` //nolint:tagliatelle // the OCI specification's name
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(layer)
	want := "sha256:" + hex.EncodeToString(sum[:])
	if got := config.RootFS.DiffIDs; len(got) != 1 || got[0] != want {
		t.Fatalf("diff IDs %v, want the layer's %s", got, want)
	}
	headers, _ = untar(t, layer)
	return headers, manifest[0].RepoTags
}

func TestLayerMakesParentsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.tar")
	err := Write(path, Config{Name: "example.test/a:1"}, func(l *Layer) error {
		if err := l.Bytes("/etc/deep/a", []byte("a"), 0o600); err != nil {
			return err
		}
		return l.Link("/etc/deep/b", "a")
	})
	if err != nil {
		t.Fatal(err)
	}
	headers, tags := layerOf(t, path)
	if len(headers) != 4 || headers["etc/deep/"] == nil || headers["etc/deep/b"].Linkname != "a" {
		t.Fatalf("layer holds %v", headers)
	}
	if len(tags) != 1 || tags[0] != "example.test/a:1" {
		t.Fatalf("tags %v", tags)
	}
}

func TestEqualFilesGiveEqualImages(t *testing.T) {
	var images [2][]byte
	for i := range images {
		path := filepath.Join(t.TempDir(), "image.tar")
		err := Write(path, Config{Name: "example.test/a:1"},
			func(l *Layer) error { return l.Bytes("/a", []byte("a"), 0o644) })
		if err != nil {
			t.Fatal(err)
		}
		if images[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Fatal("two images of the same files differ")
	}
}

func TestPackKeepsModesAndLinksOfATree(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tmp", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := Pack(path, Config{Name: "example.test/tree:1"}, root); err != nil {
		t.Fatal(err)
	}
	headers, _ := layerOf(t, path)
	if headers["tmp/"].Mode != 0o1777 || headers["link"].Linkname != "tmp" {
		t.Fatalf("tmp has mode %o, link points to %q", headers["tmp/"].Mode, headers["link"].Linkname)
	}
}

func TestPackRefusesWhatIsNoStaticProgram(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Pack(
		filepath.Join(t.TempDir(), "image.tar"),
		Config{Name: "example.test/s:1"},
		script,
	); err == nil {
		t.Fatal("a script was packed")
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	folder := t.TempDir()
	err := Write(
		filepath.Join(folder, "image.tar"),
		Config{Name: "example.test/a:1"},
		func(l *Layer) error {
			return l.File("/a", filepath.Join(folder, "absent"), 0o644)
		},
	)
	if err == nil {
		t.Fatal("an absent file was packed")
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 0 {
		t.Fatalf("left %v, %v", entries, err)
	}
}
