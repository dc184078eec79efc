package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/component"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/debian"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/image"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/node"
)

// Images that every node has from the start, beside the sidecars under the names
// registry.k8s.io/sig-storage/{csi-provisioner,csi-resizer,csi-snapshotter,snapshot-controller}
// with the tag of their version.
const (
	// BusyboxImage has a shell and the usual tools.
	BusyboxImage = "docker.io/library/busybox:stable"
	// BooksImage is examples/books.
	BooksImage = "docker.io/library/books:dev"
)

// agnhostRepository is Kubernetes' own test image, which every node has too, with the tag that its
// version of Kubernetes gives it.
const agnhostRepository = "registry.k8s.io/e2e-test-images/agnhost"

// sidecars are those that run as the unprivileged user of upstream's images.
var sidecars = []string{"csi-provisioner", "csi-resizer", "csi-snapshotter", "snapshot-controller"}

// archiveForm changes when the archives are put together in another way.
const archiveForm = "2"

// archive is an image archive in the cache.
type archive struct {
	name string
	path string
}

// images makes the archives that are not in the cache yet.
func (b builds) images(cache, pause, books, agnhost string) ([]archive, error) {
	folder := filepath.Join(cache, "images")
	archives, err := b.shells(folder, agnhost)
	if err != nil {
		return nil, err
	}
	for _, p := range b.packed(pause, books) {
		key := p.key
		if key == "" {
			var keyErr error
			key, keyErr = fileKey(p.program)
			err = errors.Join(err, keyErr)
		}
		made := archive{name: p.config.Name, path: archivePath(folder, p.config.Name, key)}
		archives = append(archives, made)
		err = errors.Join(err,
			made.unlessThere(func() error { return image.Pack(made.path, p.config, p.program) }))
	}
	return archives, err
}

// shells are the images with a shell: busybox, and agnhost beside it.
func (b builds) shells(folder, agnhost string) ([]archive, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("%w (install the package busybox-static)", err)
	}
	key, err := fileKey(busybox)
	if err != nil {
		return nil, err
	}
	small := archive{name: BusyboxImage, path: archivePath(folder, BusyboxImage, key)}
	large := archive{name: agnhost, path: archivePath(folder, agnhost, key+"-"+b["agnhost"].Key)}
	return []archive{small, large}, errors.Join(
		small.unlessThere(func() error {
			return image.Busybox(small.path, image.Config{Name: small.name, Cmd: []string{"sh"}})
		}),
		large.unlessThere(func() error {
			return image.Busybox(large.path, agnhostConfig(large.name), b["agnhost"].Program("agnhost"))
		}),
	)
}

func agnhostConfig(name string) image.Config {
	return image.Config{Name: name, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}
}

// agnhostName is the name that the version of Kubernetes gives agnhost.
func agnhostName(
	ctx context.Context, builder component.Builder, kubernetes component.Built,
) (string, error) {
	source, err := builder.ModuleFolder(ctx, kubernetes.Component, kubernetes.Module)
	if err != nil {
		return "", err
	}
	version, err := os.ReadFile(filepath.Join(source, "test", "images", "agnhost", "VERSION"))
	return agnhostRepository + ":" + strings.TrimSpace(string(version)), err
}

// packed is an image of one program.
type packed struct {
	config  image.Config
	program string
	// key changes with the program; empty means that its content is the key.
	key string
}

// packed lists the images that consist of one program each.
func (b builds) packed(pause, books string) []packed {
	list := []packed{
		{config: image.Config{Name: node.PauseImage, User: "65535:65535"}, program: pause},
		{config: image.Config{Name: BooksImage, User: "65532:65532"}, program: books},
	}
	for _, program := range sidecars {
		name := fmt.Sprintf("registry.k8s.io/sig-storage/%s:%s", program, b[program].Version)
		list = append(list, packed{
			config:  image.Config{Name: name, User: "65532:65532"},
			program: b[program].Program(program), key: b[program].Key,
		})
	}
	return list
}

func archivePath(folder, name, key string) string {
	return filepath.Join(folder, filepath.Base(name)+"-"+archiveForm+"-"+key+".tar")
}

func (a archive) unlessThere(write func() error) error {
	if _, err := os.Stat(a.path); err == nil {
		return nil
	}
	return write()
}

func fileKey(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6]), nil
}

// builds are the built components by program name.
type builds map[string]component.Built

// buildAll builds what the cache lacks, one after another: each build uses all
// cores by itself.
func buildAll(
	ctx context.Context, builder component.Builder, kubernetes string,
) (builds, error) {
	all := builds{}
	for _, c := range component.All(kubernetes) {
		built, err := builder.Build(ctx, c)
		if err != nil {
			return nil, err
		}
		for _, program := range c.Programs {
			all[program.Name] = built
		}
	}
	return all, nil
}

// link puts the programs into one folder, which the machines then see. Hard
// links cost nothing; over a border between filesystems they are copied.
func (b builds) link(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, built := range b {
		source, target := built.Program(name), filepath.Join(folder, name)
		if err := os.Link(source, target); err == nil {
			continue
		}
		if err := copyProgram(source, target); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(source, target string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return os.WriteFile(target, data, 0o755)
}

// Load imports an image archive (of `docker save` or OCI form) into every node
// that runs; nodes keep their images over a reboot.
func (c *Cluster) Load(ctx context.Context, archive string) error {
	if _, err := os.Stat(archive); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no image archive %s: make one with `go run ./test/cluster image`", archive)
	}
	s, err := c.folder.read()
	if err != nil {
		return err
	}
	var wait sync.WaitGroup
	errs := make([]error, len(s.Nodes))
	for i, n := range s.Nodes {
		if !n.Machine.Alive() {
			continue
		}
		wait.Go(func() { errs[i] = importImage(ctx, n.Machine, archive) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// importImage unpacks at once, so that the first pod does not pay for it.
func importImage(ctx context.Context, m machine.Machine, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	_, err = m.Run(ctx, file, machine.Programs+"/ctr", "--address", node.ContainerdSocket,
		"--namespace", "k8s.io", "images", "import", "-")
	if err != nil {
		return fmt.Errorf("load %s: %w", archive, err)
	}
	return nil
}

// ImageConfig is what an image says of itself.
type ImageConfig = image.Config

// PackImage writes an image archive of a static program, which becomes the
// entrypoint unless the configuration has one, or of a folder with a root
// filesystem.
func PackImage(output string, config ImageConfig, source string) error {
	return image.Pack(output, config, source)
}

// ImageBuild is a Dockerfile to build without a registry.
type ImageBuild = image.Build

// BuildImage builds a Dockerfile whose base images are debian:SUITE[-slim],
// golang:VERSION or scratch, with Debian's buildah, and writes the image's archive.
// Progress and Log may be nil; Cache is as in Options.
func BuildImage(ctx context.Context, build ImageBuild) error {
	if err := requireRoot(); err != nil {
		return err
	}
	if build.Progress == nil {
		build.Progress = func(string, ...any) {}
	}
	if build.Log == nil {
		build.Log = io.Discard
	}
	var err error
	if build.Cache, err = CacheFolder(build.Cache); err != nil {
		return err
	}
	if err := debian.Ensure(ctx, debian.Build, build.Progress); err != nil {
		return err
	}
	return build.Run(ctx)
}
