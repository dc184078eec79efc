package oci

import (
	"bytes"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func moment() time.Time { return time.Unix(1_700_000_000, 0).UTC() }

func TestTarDoesNotDependOnOrderAndHasParents(t *testing.T) {
	files := []File{
		{Path: "usr/bin/tool", Mode: 0o755, Content: []byte("x")},
		{Path: "bin", Link: "usr/bin"},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}
	var one, other bytes.Buffer
	if err := WriteTar(&one, files, moment()); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(files)
	if err := WriteTar(&other, files, moment()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), other.Bytes()) {
		t.Error("the order of the files changes the tar")
	}
	for _, name := range []string{"usr/\x00", "usr/bin/\x00", "tmp/\x00"} {
		if !bytes.Contains(one.Bytes(), []byte(name)) {
			t.Errorf("no entry %q", name)
		}
	}
	back, err := ReadTar(&one)
	if err != nil || len(back) != 2 { // without directories
		t.Errorf("read again: %+v, %v", back, err)
	}
}

func index(t *testing.T, content string) v1.ImageIndex {
	t.Helper()
	var images []v1.Image
	for _, architecture := range []string{"amd64", "arm64"} {
		image, err := Image{
			Architecture: architecture, Created: moment(), Entrypoint: []string{"/tool"},
			Layers: []Layer{{
				Comment: "tool", Modified: moment(),
				Files: []File{{Path: "tool", Mode: 0o755, Content: []byte(content + architecture)}},
			}},
		}.Build()
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, image)
	}
	made, err := Index(images, map[string]string{"org.opencontainers.image.version": "1"})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestLayoutIsTheSameTwice(t *testing.T) {
	var packed [2]string
	for i := range packed {
		folder := filepath.Join(t.TempDir(), "layout")
		if _, err := WriteIndex(folder, "1", index(t, "a")); err != nil {
			t.Fatal(err)
		}
		packed[i] = filepath.Join(t.TempDir(), "layout.tar")
		if err := Pack(packed[i], folder, moment()); err != nil {
			t.Fatal(err)
		}
	}
	if one, other := hash(t, packed[0]), hash(t, packed[1]); one != other {
		t.Errorf("digests differ: %s, %s", one, other)
	}
}

func TestPushKeepsTheDigestAndChangesNothingThatIsThere(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/csi-hostpath"
	folder := filepath.Join(t.TempDir(), "one")
	digest, err := WriteIndex(folder, "1", index(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again, as after a failure of a later step
		reference, err := Push(t.Context(), folder, repository)
		if err != nil || reference.DigestStr() != digest.String() {
			t.Fatalf("pushed %s, %v: want %s", reference, err, digest)
		}
	}
	other := filepath.Join(t.TempDir(), "other")
	if _, err := WriteIndex(other, "1", index(t, "b")); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), other, repository); err == nil {
		t.Error("another image took the tag")
	}
	chart := filepath.Join(t.TempDir(), "chart")
	digest, err = Artifact{
		Config: []byte(`{"name":"a"}`), ConfigType: "application/vnd.cncf.helm.config.v1+json",
		Layer: []byte("chart"), LayerType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
	}.Write(chart, "1")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := Push(t.Context(), chart, repository+"/chart")
	if err != nil || reference.DigestStr() != digest.String() {
		t.Errorf("pushed the chart as %s, %v: want %s", reference, err, digest)
	}
}

func hash(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	digest, _, err := v1.SHA256(file)
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}
