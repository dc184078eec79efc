package oldpools

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const mebi = 1 << 20

// oldVolume is a volume of the recorded pools, and how it was asked for.
type oldVolume struct {
	name       string
	bytes      int64
	parameters map[string]string
	fsType     string // of an image
	block      bool
	// source is the name of the volume or of the snapshot that it was made from.
	source     string
	ofSnapshot bool
	// unused: it was never staged, so there is no content.
	unused bool
	// dir is the name of the volume's directory, if that is not the volume's name.
	dir string
}

// oldSnapshot is a snapshot of the recorded pools.
type oldSnapshot struct{ name, source string }

// recordedVolumes are in each archive. What a later version adds goes into a list of its own,
// because the archives that are there do not have it.
func recordedVolumes() []oldVolume {
	return []oldVolume{
		{name: "directory", bytes: 8 * mebi, parameters: map[string]string{
			"type": "DirectoryOrCreate", "mode": "2770", "uid": "1000", "gid": "2000",
			"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "shop",
			"csi.storage.k8s.io/pv/name": "directory",
		}},
		{name: "file", bytes: 8 * mebi, parameters: map[string]string{
			"type": "FileOrCreate", "mode": "0640",
		}},
		{
			name:  strings.Repeat("long.", 20) + "name",
			dir:   "h-651632d0d8bc7a797e914d9b1ec735d0f5abdb3a",
			bytes: 8 * mebi,
		},
		{name: "image", bytes: 300 * mebi, fsType: "xfs", parameters: map[string]string{"mode": "0750"}},
		{name: "image-unused", bytes: 16 * mebi, fsType: "ext4", unused: true},
		{name: "image-preallocated", bytes: 16 * mebi, parameters: map[string]string{
			"backing": "image", "allocation": "preallocated",
		}},
		{name: "block", bytes: 8 * mebi, block: true},
		{name: "directory-from-snapshot", bytes: 8 * mebi, source: "of-directory", ofSnapshot: true},
		{name: "directory-from-volume", bytes: 8 * mebi, source: "directory"},
		{name: "image-from-snapshot", bytes: 300 * mebi, fsType: "xfs", source: "of-image", ofSnapshot: true},
		{name: "block-from-volume", bytes: 8 * mebi, block: true, source: "block"},
	}
}

func recordedSnapshots() []oldSnapshot {
	return []oldSnapshot{
		{"of-directory", "directory"}, {"of-file", "file"}, {"of-image", "image"}, {"of-block", "block"},
	}
}

// volumeNamed is one of the recorded volumes.
func volumeNamed(name string) oldVolume {
	all := recordedVolumes()
	return all[slices.IndexFunc(all, func(v oldVolume) bool { return v.name == name })]
}

// directory is the name of the volume's directory.
func (v oldVolume) directory() string {
	if v.dir != "" {
		return v.dir
	}
	return v.name
}

// named is another volume of the same kind.
func (v oldVolume) named(name string) oldVolume {
	v.name, v.dir = name, ""
	v.parameters = maps.Clone(v.parameters)
	return v
}

func (v oldVolume) capability() *csi.VolumeCapability {
	if v.block {
		return fixture.BlockCapability()
	}
	return fixture.MountCapability(v.fsType)
}

// content is what the volume holds: that of what it was made from.
func (v oldVolume) content() string {
	switch {
	case v.ofSnapshot:
		for _, s := range recordedSnapshots() {
			if s.name == v.source {
				return volumeNamed(s.source).content()
			}
		}
	case v.source != "":
		return volumeNamed(v.source).content()
	}
	return "content of " + v.name
}

// file is where the content is in a volume at a target.
func (v oldVolume) file(target string) string {
	if v.block || v.parameters["type"] == "FileOrCreate" {
		return target
	}
	return filepath.Join(target, "file")
}

func (v oldVolume) write(target string) error {
	f, err := os.OpenFile(v.file(target), os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(v.content()); err != nil {
		return err
	}
	return f.Sync()
}

// read reads as many bytes as there ought to be.
func (v oldVolume) read(target string) (string, error) {
	f, err := os.Open(v.file(target))
	if err != nil {
		return "", err
	}
	defer f.Close()
	content := make([]byte, len(v.content()))
	n, err := f.Read(content)
	return string(content[:n]), err
}

// isImage says whether the volume is a filesystem in a file.
func (v oldVolume) isImage() bool { return v.fsType != "" || v.parameters["backing"] == "image" }

// canGrow is false for ext4 without CAP_SYS_RESOURCE: the kernel refuses it then.
func (v oldVolume) canGrow() bool {
	if !v.isImage() || v.fsType == "xfs" {
		return true
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	return unix.Capget(&header, &has[0]) == nil && has[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// deletedInPlace is the mode of a directory in volumes/ or snapshots/ that the driver deleted on a
// full disk (docs/design.md).
const deletedInPlace = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX

// mode is how a class writes the mode of what was found.
func mode(st unix.Stat_t) string {
	return fmt.Sprintf("%04o", st.Mode&0o7777)
}
