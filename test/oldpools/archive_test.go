package oldpools

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const (
	poolName     = "pool"
	manifestFile = "manifest.json"
	suffix       = ".tar.gz"
	// blockBytes is the unit in which unpack leaves zeroes out of a file.
	blockBytes = 4096
)

// manifest is what tar(1) does not keep of a pool. It is the first entry of an archive.
type manifest struct {
	// Subvolumes are the pool's btrfs subvolumes, parents first.
	Subvolumes []subvolume `json:"subvolumes,omitempty"`
}

type subvolume struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// archivePath is the archive of a pool that a version made on a filesystem.
func archivePath(dir, version, fstype string) string {
	return filepath.Join(dir, version+"-"+fstype+suffix)
}

// filesystemOf is the filesystem of the pool in an archive.
func filesystemOf(t *testing.T, archive string) string {
	t.Helper()
	name := strings.TrimSuffix(filepath.Base(archive), suffix)
	fstype := name[strings.LastIndex(name, "-")+1:]
	if !slices.Contains(disks.Types(), fstype) {
		t.Fatalf("%s: %q is none of %v", archive, fstype, disks.Types())
	}
	return fstype
}

// pack writes the pool below dir into an archive. Nothing changes the pool meanwhile.
func pack(t *testing.T, dir, archive string) {
	t.Helper()
	content, err := json.MarshalIndent(manifest{Subvolumes: findSubvolumes(t, dir)}, "", "  ")
	fixture.Must(t, err)
	fixture.Must(t, os.WriteFile(filepath.Join(dir, manifestFile), content, 0o600))
	// GNU tar finds the holes of an image; archive/tar reads such an archive, and cannot write one.
	cmd := exec.CommandContext(t.Context(), "tar", "--create", "--sparse", "--numeric-owner",
		"--sort=name", "--gzip", "--file", archive, "--directory", dir, manifestFile, poolName)
	cmd.Env = append(os.Environ(), "GZIP=-9")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
}

// findSubvolumes lists the subvolumes in the pool: on btrfs, the directories with inode 256.
func findSubvolumes(t *testing.T, dir string) (found []subvolume) {
	t.Helper()
	var statfs unix.Statfs_t
	fixture.Must(t, unix.Statfs(dir, &statfs))
	if statfs.Type != unix.BTRFS_SUPER_MAGIC {
		return nil
	}
	const firstInode = 256 // BTRFS_FIRST_FREE_OBJECTID
	fixture.Must(t, filepath.WalkDir(filepath.Join(dir, poolName),
		func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil || st.Ino != firstInode {
				return err
			}
			rest, err := filepath.Rel(dir, path)
			readOnly := strings.Contains(btrfs(t, "property", "get", "-ts", path, "ro"), "true")
			found = append(found, subvolume{Path: rest, ReadOnly: readOnly})
			return err
		}))
	return found
}

func btrfs(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "btrfs", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("btrfs %q: %v: %s", args, err, out)
	}
	return string(out)
}

// unpack makes the pool of an archive below dir, with each owner and mode.
func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	fixture.Must(t, err)
	defer f.Close()
	zip, err := gzip.NewReader(f)
	fixture.Must(t, err)
	u := unpacker{t: t, dir: dir, tar: tar.NewReader(zip)}
	for {
		header, err := u.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		fixture.Must(t, err)
		u.make(header)
	}
	u.finish()
}

type unpacker struct {
	t        *testing.T
	dir      string
	tar      *tar.Reader
	manifest manifest
	made     []*tar.Header
}

func (u *unpacker) path(name string) string { return filepath.Join(u.dir, name) }

func (u *unpacker) make(header *tar.Header) {
	u.t.Helper()
	path := u.path(header.Name)
	isSubvolume := slices.ContainsFunc(u.manifest.Subvolumes,
		func(s subvolume) bool { return u.path(s.Path) == path })
	switch {
	case header.Name == manifestFile:
		fixture.Must(u.t, json.NewDecoder(u.tar).Decode(&u.manifest))
		return
	case isSubvolume:
		btrfs(u.t, "subvolume", "create", path)
	case header.Typeflag == tar.TypeDir:
		fixture.Must(u.t, os.Mkdir(path, 0o700))
	case header.Typeflag == tar.TypeReg, header.Typeflag == tar.TypeGNUSparse:
		fixture.Must(u.t, u.writeFile(path, header.Size))
	default:
		u.t.Fatalf("%s: entries of type %q are not handled", header.Name, header.Typeflag)
	}
	u.made = append(u.made, header)
}

// writeFile leaves a hole wherever a block is all zeroes.
func (u *unpacker) writeFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, blockBytes)
	for at := int64(0); at < size; at += blockBytes {
		part := block[:min(blockBytes, size-at)]
		if _, err := io.ReadFull(u.tar, part); err != nil {
			return err
		}
		if bytes.Count(part, []byte{0}) == len(part) {
			continue
		}
		if _, err := f.WriteAt(part, at); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

// finish sets owners and modes when nothing is written any more: chown(2) clears setuid and setgid.
func (u *unpacker) finish() {
	u.t.Helper()
	for _, header := range slices.Backward(u.made) {
		path := u.path(header.Name)
		fixture.Must(u.t, os.Lchown(path, header.Uid, header.Gid))
		fixture.Must(u.t, unix.Chmod(path, uint32(header.Mode))) //nolint:gosec // a mode has 12 bits
	}
	for _, s := range slices.Backward(u.manifest.Subvolumes) {
		if s.ReadOnly {
			btrfs(u.t, "property", "set", "-ts", u.path(s.Path), "ro", "true")
		}
	}
}

// records are the records of what the pool has, by their paths, as JSON.
func records(t *testing.T, pool string) map[string]map[string]any {
	t.Helper()
	volumes, err := filepath.Glob(filepath.Join(pool, "volumes", "*", "volume.json"))
	fixture.Must(t, err)
	snapshots, err := filepath.Glob(filepath.Join(pool, "snapshots", "*", "snapshot.json"))
	fixture.Must(t, err)
	all := map[string]map[string]any{}
	for _, path := range slices.Concat(volumes, snapshots) {
		content, err := os.ReadFile(path)
		fixture.Must(t, err)
		var record map[string]any
		if err := json.Unmarshal(content, &record); err != nil {
			t.Fatal(fmt.Errorf("%s: %w", path, err))
		}
		rest, err := filepath.Rel(pool, path)
		fixture.Must(t, err)
		all[rest] = record
	}
	return all
}
