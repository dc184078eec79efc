package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// base is an image that a Dockerfile begins from and that is made here, since
// there is no registry: Debian, or Debian with this machine's Go.
type base struct {
	reference string
	// suite is the Debian release.
	suite string
	// withGo is set for golang images.
	withGo bool
}

// parseBases returns the base images that a Dockerfile names.
func parseBases(dockerfile string) ([]base, error) {
	stages := map[string]bool{"scratch": true}
	seen := map[string]bool{}
	arguments := map[string]string{}
	var bases []base
	scanner := bufio.NewScanner(strings.NewReader(dockerfile))
	for scanner.Scan() {
		words := strings.Fields(scanner.Text())
		if len(words) == 2 && strings.EqualFold(words[0], "ARG") && len(seen) == 0 {
			name, value, _ := strings.Cut(words[1], "=")
			arguments[name] = value
		}
		if len(words) < 2 || !strings.EqualFold(words[0], "FROM") {
			continue
		}
		words = words[1:]
		for len(words) > 1 && strings.HasPrefix(words[0], "--") {
			words = words[1:]
		}
		words[0] = expand(words[0], arguments)
		if !stages[words[0]] && !seen[words[0]] {
			seen[words[0]] = true
			b, err := parseBase(words[0])
			if err != nil {
				return nil, err
			}
			bases = append(bases, b)
		}
		if len(words) == 3 && strings.EqualFold(words[1], "AS") {
			stages[words[2]] = true
		}
	}
	return bases, scanner.Err()
}

// expand puts in the defaults of the arguments that stand before the first FROM. What has none
// stays as it is, and is refused.
func expand(reference string, arguments map[string]string) string {
	return os.Expand(reference, func(name string) string {
		if value, ok := arguments[name]; ok {
			return value
		}
		return "${" + name + "}"
	})
}

// parseBase understands debian:<suite>[-slim] and golang:<version>[-<suite>].
func parseBase(reference string) (base, error) {
	short := strings.TrimPrefix(reference, "docker.io/library/")
	name, tag, _ := strings.Cut(short, ":")
	first, rest, _ := strings.Cut(tag, "-")
	switch {
	case strings.ContainsAny(reference, "$@") || tag == "" || tag == "latest":
	case name == "debian" && (rest == "" || rest == "slim"):
		return base{reference: short, suite: first}, nil
	case name == "golang" && !strings.Contains(rest, "alpine"):
		return base{reference: short, suite: strings.TrimPrefix(rest, "slim-"), withGo: true}, nil
	}
	return base{}, fmt.Errorf(
		"cannot make the base image %s: use debian:SUITE[-slim] or golang:VERSION[-SUITE]",
		reference,
	)
}

// checkGo makes sure that this machine's Go is the one that the image promises.
func (b base) checkGo(version string) error {
	_, tag, _ := strings.Cut(b.reference, ":")
	want, _, _ := strings.Cut(tag, "-")
	have := strings.TrimPrefix(version, "go")
	if have != want && !strings.HasPrefix(have, want+".") {
		return fmt.Errorf("the Dockerfile wants %s and this machine has Go %s: install Go %s",
			b.reference, have, want)
	}
	return nil
}

// unneeded is what the slim Debian images leave out too. What packages install
// there later stays.
var unneeded = []string{
	"var/cache/apt", "var/lib/apt/lists", "var/log/bootstrap.log",
	"usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man",
}

// makeDebian returns a folder with a minimal Debian, made once a suite.
func makeDebian(
	ctx context.Context, cache, suite string, progress func(string, ...any),
) (string, error) {
	root := filepath.Join(cache, "debian", suite)
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return "", err
	}
	staging, err := os.MkdirTemp(filepath.Dir(root), "making-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(staging) }()
	if err := os.Chmod(staging, 0o755); err != nil {
		return "", err
	}
	progress("making a Debian %s (only the first time; half a minute)", suite)
	args := []string{"--variant=minbase", "--include=ca-certificates", suite, staging}
	if mirror := mirrorOf(ctx, suite); mirror != "" {
		args = append(args, mirror)
	}
	// Its mounts go with the namespace, also when it fails half way.
	cmd := privately(ctx, append([]string{"debootstrap"}, args...)...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("debootstrap %s: %w: %s", suite, err, tail(output))
	}
	for _, folder := range unneeded {
		if err := os.RemoveAll(filepath.Join(staging, folder)); err != nil {
			return "", err
		}
	}
	if err := os.Rename(staging, root); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return root, nil
}

// mirrorOf returns where this machine gets a suite from, or "" for debootstrap's
// own default.
func mirrorOf(ctx context.Context, suite string) string {
	output, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[1] == suite && fields[2] == "main" {
			return fields[0]
		}
	}
	return ""
}

// ownSuite is the Debian release for an image that names none: the machine's.
func ownSuite() string {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "stable"
	}
	id, codename := "", ""
	for line := range strings.Lines(string(release)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "ID":
			id = value
		case "VERSION_CODENAME":
			codename = strings.Trim(value, `"`)
		}
	}
	if id != "debian" || codename == "" {
		return "stable"
	}
	return codename
}

// privately returns a command in a mount namespace of its own.
func privately(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(
		ctx,
		"unshare",
		append([]string{"--mount", "--propagation", "private", "--"}, args...)...)
}

// tail returns the last lines of what a program said.
func tail(output []byte) string {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
