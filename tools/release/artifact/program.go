package artifact

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/csi-hostpath/csi-hostpath/tools/release/oci"
)

const versionVariable = "github.com/csi-hostpath/csi-hostpath/pkg/version.buildVersion"

// Program is an executable for one platform.
type Program struct {
	Name    string // without .exe
	OS      string
	Arch    string
	Content []byte
	Build   *buildinfo.BuildInfo
}

// gitFetcher is the program of the module gitfetch; the others are in cmd.
const gitFetcher = "csi-hostpath-git"

// Compile builds a program as `make build` does: static, without paths of this machine.
func (s Source) Compile(ctx context.Context, name, goos, goarch string) (Program, error) {
	program := Program{Name: name, OS: goos, Arch: goarch}
	folder, err := os.MkdirTemp("", "program-")
	if err != nil {
		return program, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	file := filepath.Join(folder, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X "+versionVariable+"="+s.Version, "-o", file, "./cmd/"+name)
	cmd.Dir = s.Folder
	if name == gitFetcher {
		cmd.Args[len(cmd.Args)-1], cmd.Dir = ".", filepath.Join(s.Folder, "gitfetch")
	}
	// GOFLAGS and the levels of the processor would change the bytes.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch,
		"GOFLAGS=-mod=readonly", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return program, fmt.Errorf("build %s for %s/%s: %w: %s", name, goos, goarch, err, out)
	}
	if program.Content, err = os.ReadFile(file); err != nil {
		return program, err
	}
	program.Build, err = buildinfo.Read(bytes.NewReader(program.Content))
	return program, err
}

// File is the program in an image or an archive.
func (p Program) File(folder string) oci.File {
	name := p.Name
	if p.OS == "windows" {
		name += ".exe"
	}
	return oci.File{Path: folder + name, Mode: 0o755, Content: p.Content}
}
