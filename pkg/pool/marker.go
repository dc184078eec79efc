package pool

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The entries of a pool's directory.
const (
	markerFile    = "pool.json"
	markerTmpFile = "pool.json.tmp"
	lockFile      = "lock"
	volumesDir    = "volumes"
	snapshotsDir  = "snapshots"
	tmpDir        = "tmp"
	trashDir      = "trash"
	// lostAndFound is what mkfs.ext4 leaves in an empty filesystem.
	lostAndFound = "lost+found"

	// formatVersion is what this driver writes; it refuses a newer one, because it cannot know what
	// that means.
	formatVersion = 1
)

var ownDirs = []string{volumesDir, snapshotsDir, tmpDir, trashDir}

// marker is pool.json. It is written once, last of all when a pool is made, so its presence says
// that the pool is whole.
type marker struct {
	FormatVersion int       `json:"formatVersion"`
	UUID          string    `json:"uuid"`
	Created       time.Time `json:"created"`
}

// readMarker reports os.ErrNotExist for a directory that is not a pool yet. Errors: ErrCorrupt,
// ErrUnavailable for a newer format.
func readMarker(root dir) (marker, error) {
	f, err := openAt(root.fd(), markerFile, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return marker{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxRecordBytes))
	if err != nil {
		return marker{}, fmt.Errorf("read %s: %w", markerFile, err)
	}
	return decodeMarker(content)
}

// decodeMarker reads a marker. Errors: ErrCorrupt, ErrUnavailable for a newer format.
func decodeMarker(content []byte) (marker, error) {
	var m marker
	if err := json.Unmarshal(content, &m); err != nil {
		return marker{}, fmt.Errorf("%w: %s: %w", volume.ErrCorrupt, markerFile, err)
	}
	if m.FormatVersion > formatVersion {
		return marker{}, fmt.Errorf(
			"%w: %s has format version %d, this driver knows up to %d: run the newer driver",
			volume.ErrUnavailable,
			markerFile,
			m.FormatVersion,
			formatVersion,
		)
	}
	return m, nil
}

// poolID is the part of the UUID that stands in volume IDs.
func (m marker) poolID() (volume.PoolID, error) {
	digits := strings.ReplaceAll(m.UUID, "-", "")
	id, err := volume.ParsePoolID(digits[:min(len(digits), 12)])
	if err != nil {
		return "", fmt.Errorf("%w: %s has uuid %q", volume.ErrCorrupt, markerFile, m.UUID)
	}
	return id, nil
}

// checkUnused refuses a directory that holds anything but the beginnings of a pool, which a crash
// of an earlier start may have left. Errors: ErrUnavailable.
func checkUnused(root dir) error {
	names, err := root.Readdirnames(-1)
	if err != nil {
		return err
	}
	allowed := append([]string{lockFile, markerTmpFile, lostAndFound}, ownDirs...)
	foreign := slices.DeleteFunc(slices.Clone(names),
		func(n string) bool { return slices.Contains(allowed, n) })
	if len(foreign) > 0 {
		slices.Sort(foreign)
		return fmt.Errorf(
			"%w: it holds %d entries that are no pool's, such as %q, and no %s: give the pool an empty directory",
			volume.ErrUnavailable,
			len(foreign),
			foreign[0],
			markerFile,
		)
	}
	for _, name := range ownDirs {
		if err := checkEmpty(root, name); err != nil {
			return err
		}
	}
	return nil
}

func checkEmpty(root dir, name string) error {
	d, err := root.openDir(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: look whether %s/ is empty: %w", volume.ErrUnavailable, name, err)
	}
	return fmt.Errorf(
		"%w: %s is missing and %s/ is not empty, it has %q: put %s back from a backup, or give the pool an empty directory",
		volume.ErrUnavailable,
		markerFile,
		name,
		names[0],
		markerFile,
	)
}

// initialize turns a directory into a pool. It can be repeated after a crash at any step.
func initialize(root dir) (marker, error) {
	for _, name := range ownDirs {
		if err := unix.Mkdirat(root.fd(), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return marker{}, &os.PathError{Op: "mkdir", Path: name, Err: err}
		}
	}
	failpoint.Here("pool.init.directories")
	m := marker{FormatVersion: formatVersion, UUID: newUUID(), Created: time.Now().UTC()}
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return marker{}, err
	}
	if err := unix.Unlinkat(root.fd(), markerTmpFile, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return marker{}, &os.PathError{Op: "unlink", Path: markerTmpFile, Err: err}
	}
	if err := root.writeFile(markerTmpFile, append(content, '\n'), (*os.File).Sync); err != nil {
		return marker{}, err
	}
	failpoint.Here("pool.init.marker-written")
	if err := root.rename(markerTmpFile, root, markerFile); err != nil {
		return marker{}, err
	}
	failpoint.Here("pool.init.marker-renamed")
	return m, root.Sync()
}

// newUUID is a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// lockPool takes the pool for this process until its directory is closed. The kernel lets go of it
// when the process ends, however it ends. The lock is on the directory itself, because a file could
// be removed, and made again for a second driver; the file says who has it. Errors: ErrUnavailable
// while another process has it.
func lockPool(root dir) error {
	f, err := openAt(root.fd(), lockFile, unix.O_CREAT|unix.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(root.fd(), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		return fmt.Errorf("%w: a live driver owns it (process %q by its %s file): %w",
			volume.ErrUnavailable, strings.TrimSpace(string(holder)), lockFile, err)
	}
	// The number only helps the person who reads that message; a failure to write it changes
	// nothing.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return nil
}
