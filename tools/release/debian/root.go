package debian

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/tools/release/oci"
)

// triplets are the names of the folders that libraries are in (Debian's multiarch).
var triplets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

// contents are the files of all packages of an architecture, by their path.
type contents struct {
	files    map[string]oci.File
	owners   map[string]string // names of packages
	triplet  string
	selected map[string]bool
}

// Root returns the files of the base layer for an architecture: those that the description wants,
// what they need to run, and each package's copyright and record. A record is where distroless
// images have it (var/lib/dpkg/status.d), so that scanners find it.
func Root(
	ctx context.Context, description Description, lock Lock, architecture, cache string,
) ([]oci.File, error) {
	all := contents{
		files: map[string]oci.File{}, owners: map[string]string{},
		triplet: triplets[architecture], selected: map[string]bool{},
	}
	if all.triplet == "" {
		return nil, fmt.Errorf("architecture %q: want amd64 or arm64", architecture)
	}
	var records []oci.File
	for _, pkg := range lock.Of(architecture) {
		record, err := all.unpack(ctx, lock, cache, pkg)
		if err != nil {
			return nil, fmt.Errorf("package %s of %s: %w", pkg.Name, architecture, err)
		}
		records = append(records, record)
	}
	for _, wanted := range description.Files {
		if err := all.choose(wanted); err != nil {
			return nil, fmt.Errorf("base layer of %s: %w", architecture, err)
		}
	}
	if err := all.checkNoneIsUseless(lock.Of(architecture)); err != nil {
		return nil, err
	}
	return append(all.result(), records...), nil
}

// unpack adds a package's files and returns its record.
func (c *contents) unpack(
	ctx context.Context, lock Lock, cache string, pkg Package,
) (oci.File, error) {
	deb, err := lock.Fetch(ctx, cache, pkg)
	if err != nil {
		return oci.File{}, err
	}
	data, err := run(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	if err != nil {
		return oci.File{}, err
	}
	files, err := oci.ReadTar(bytes.NewReader(data))
	if err != nil {
		return oci.File{}, err
	}
	for _, file := range files {
		file.Path = merged(file.Path)
		c.files[file.Path] = file
		c.owners[file.Path] = pkg.Name
	}
	c.selected["usr/share/doc/"+pkg.Name+"/copyright"] = true
	record, err := run(ctx, "dpkg-deb", "--field", deb)
	return oci.File{Path: "var/lib/dpkg/status.d/" + pkg.Name, Mode: 0o644, Content: record}, err
}

// merged is where a path is when /bin, /sbin and /lib* are links into /usr (Debian's merged /usr).
func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, _ := strings.Cut(name, "/")
	switch first {
	case "bin", "sbin", "lib", "lib64":
		return "usr/" + name
	default:
		return name
	}
}

// choose selects a file and what it needs.
func (c *contents) choose(name string) error {
	name = merged(name)
	if c.selected[name] {
		return nil
	}
	file, ok := c.files[name]
	if !ok {
		return fmt.Errorf("no package has /%s: add the package that has it to base.yaml", name)
	}
	c.selected[name] = true
	needed, err := c.needs(file)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	for _, other := range needed {
		if err := c.choose(other); err != nil {
			return fmt.Errorf("%w (/%s needs it)", err, name)
		}
	}
	return nil
}

// needs returns the target of a link, the interpreter of a script, or the interpreter and the
// libraries of a program.
func (c *contents) needs(file oci.File) ([]string, error) {
	switch {
	case path.IsAbs(file.Link):
		return []string{file.Link}, nil
	case file.Link != "":
		return []string{path.Join("/", path.Dir(file.Path), file.Link)}, nil
	case bytes.HasPrefix(file.Content, []byte("#!")):
		line, _, _ := bytes.Cut(file.Content[2:], []byte("\n"))
		return strings.Fields(string(line))[:1], nil
	case bytes.HasPrefix(file.Content, []byte(elf.ELFMAG)):
		return c.libraries(file.Content)
	default:
		return nil, nil
	}
}

func (c *contents) libraries(program []byte) ([]string, error) {
	parsed, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, err
	}
	var needed []string
	for _, header := range parsed.Progs {
		if header.Type == elf.PT_INTERP {
			interpreter := make([]byte, header.Filesz)
			if _, err := header.ReadAt(interpreter, 0); err != nil {
				return nil, err
			}
			needed = append(needed, string(bytes.TrimRight(interpreter, "\x00")))
		}
	}
	names, err := parsed.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		library := path.Join("/usr/lib", c.triplet, name)
		if _, ok := c.files[merged(library)]; !ok {
			return nil, fmt.Errorf("no package has the library %s: add the package that has it to base.yaml",
				name)
		}
		needed = append(needed, library)
	}
	return needed, nil
}

// checkNoneIsUseless keeps out of the image what nothing in it uses.
func (c *contents) checkNoneIsUseless(packages []Package) error {
	used := map[string]bool{}
	for name := range c.selected {
		if !strings.HasPrefix(name, "usr/share/doc/") {
			used[c.owners[name]] = true
		}
	}
	var failed error
	for _, pkg := range packages {
		if !used[pkg.Name] {
			failed = errors.Join(failed,
				fmt.Errorf("nothing in the image needs package %s: remove it from base.yaml", pkg.Name))
		}
	}
	return failed
}

// result returns the selected files, and the links and directories that every root has.
func (c *contents) result() []oci.File {
	files := []oci.File{
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "etc/passwd", Mode: 0o644, Content: []byte(
			"root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n")},
		{Path: "etc/group", Mode: 0o644, Content: []byte("root:x:0:\nnogroup:x:65534:\n")},
	}
	for _, directory := range []string{"dev", "proc", "run", "sys", "var/lib"} {
		files = append(files, oci.File{Path: directory, Mode: fs.ModeDir | 0o755})
	}
	linked := []string{"bin", "lib", "sbin"}
	if slices.ContainsFunc(c.names(), func(name string) bool {
		return strings.HasPrefix(name, "usr/lib64/")
	}) {
		linked = append(linked, "lib64")
	}
	for _, name := range linked {
		files = append(files, oci.File{Path: name, Link: "usr/" + name})
	}
	for _, name := range c.names() {
		if file, ok := c.files[name]; ok { // a package may share another one's copyright
			files = append(files, file)
		}
	}
	return files
}

func (c *contents) names() []string {
	names := make([]string, 0, len(c.selected))
	for name := range c.selected {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
