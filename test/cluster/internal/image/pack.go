package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// passwd names the users that a program may look up; 65532 is the one that
// distroless images call nonroot.
const passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"

// Pack makes an image of a static program or of a folder with a root file
// system. A program becomes the entrypoint when the configuration has none.
func Pack(path string, config Config, source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return Write(path, config, func(l *Layer) error { return l.Tree("/", source) })
	}
	if err := checkStatic(source); err != nil {
		return err
	}
	inside := "/" + filepath.Base(source)
	if len(config.Entrypoint) == 0 {
		config.Entrypoint = []string{inside}
	}
	return Write(path, config, func(l *Layer) error {
		return errors.Join(minimalRoot(l), l.File(inside, source, 0o755))
	})
}

func minimalRoot(l *Layer) error {
	return errors.Join(
		l.Directory("/tmp", 0o777|fs.ModeSticky),
		l.Bytes("/etc/passwd", []byte(passwd), 0o644),
		l.Bytes("/etc/group", []byte("root:x:0:\nnonroot:x:65532:\n"), 0o644),
	)
}

// Busybox makes an image of the host's static busybox with its applets as links, and of other
// static programs beside it.
func Busybox(path string, config Config, programs ...string) error {
	return BusyboxWith(path, config, nil, programs...)
}

// BusyboxWith has the host's own tools in place of the applets with their names: Busybox' dd lacks
// some flags of GNU's.
func BusyboxWith(path string, config Config, tools []string, programs ...string) error {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("busybox: %w (install the package busybox-static)", err)
	}
	if err := checkStatic(program); err != nil {
		return err
	}
	list, err := exec.Command(program, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the applets of %s: %w", program, err)
	}
	return Write(path, config, func(l *Layer) error {
		if err := errors.Join(minimalRoot(l), l.File("/bin/busybox", program, 0o755)); err != nil {
			return err
		}
		if err := addTools(l, tools, strings.Fields(string(list))); err != nil {
			return err
		}
		for _, other := range programs {
			if err := l.File("/"+filepath.Base(other), other, 0o755); err != nil {
				return err
			}
		}
		// Scripts of other images say /usr/bin/env and the like.
		return errors.Join(l.Directory("/usr", 0o755), l.Link("/usr/bin", "../bin"))
	})
}

// addTools adds programs of the host, and links of the other applets to busybox.
func addTools(l *Layer, tools, applets []string) error {
	for _, applet := range applets {
		if applet == "busybox" || slices.Contains(tools, applet) {
			continue
		}
		if err := l.Link("/bin/"+applet, "busybox"); err != nil {
			return err
		}
	}
	for _, tool := range tools {
		if err := addTool(l, tool); err != nil {
			return err
		}
	}
	return nil
}

// addTool adds a program of the host, and the libraries that ldd(1) names.
func addTool(l *Layer, name string) error {
	program, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	list, err := exec.Command("ldd", program).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", program, err)
	}
	errs := []error{l.File("/bin/"+name, program, 0o755)}
	for word := range strings.FieldsSeq(string(list)) {
		if strings.HasPrefix(word, "/") {
			errs = append(errs, l.File(word, word, 0o755))
		}
	}
	return errors.Join(errs...)
}

// checkStatic refuses what could not run in an image without libraries.
func checkStatic(program string) error {
	file, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("%s is no program: %w", program, err)
	}
	defer func() { _ = file.Close() }()
	for _, header := range file.Progs {
		if header.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is dynamically linked: pack a static one (CGO_ENABLED=0 for Go, "+
				"the package busybox-static for busybox) or a folder with its libraries", program)
		}
	}
	return nil
}
