package pool

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// The kinds of things that a pod leaves in its volume.
type fileKind int

const (
	isDir fileKind = iota
	isFile
	isLink
	isHardLink
	isFIFO
	isSocket
	isDevice
)

// The attributes of ioctl_iflags(2).
const (
	immutable  = 0x10
	appendOnly = 0x20
)

// node is one thing in a tree; attributes are set when the whole tree is there.
type node struct {
	path       string
	kind       fileKind
	target     string // of a link
	mode       uint32
	attributes int
}

// litter is what pods have left, each tree in a volume of its own.
var litter = []struct {
	title string
	tree  []node
}{
	{
		"files and directories",
		[]node{
			{path: "a", kind: isDir},
			{path: "a/b", kind: isDir},
			{path: "a/b/c", kind: isFile},
			{path: "d", kind: isFile},
		},
	},
	{
		"odd names",
		[]node{
			{path: "new\nline", kind: isDir},
			{path: "new\nline/\xff", kind: isFile},
			{path: "-rf", kind: isFile},
			{path: "...", kind: isDir},
		},
	},
	{
		"what is no file",
		[]node{
			{path: "fifo", kind: isFIFO},
			{path: "socket", kind: isSocket},
			{path: "null", kind: isDevice},
		},
	},
	{
		"what nobody may enter or write",
		[]node{
			{path: "a", kind: isDir, mode: 0o100},
			{path: "a/b", kind: isDir},
			{path: "a/b/c", kind: isFile},
		},
	},
	{
		"dangling link",
		[]node{
			{path: "link", kind: isLink, target: "nowhere"},
			{path: "loop", kind: isLink, target: "loop"},
		},
	},
	{"immutable file", []node{{path: "a", kind: isFile, attributes: immutable}}},
	{"append-only file", []node{{path: "a", kind: isFile, attributes: appendOnly}}},
	{
		"immutable directory",
		[]node{
			{path: "a", kind: isDir, attributes: immutable},
			{path: "a/b", kind: isFile},
			{path: "a/c", kind: isDir},
		},
	},
	{
		"append-only directory",
		[]node{
			{path: "a", kind: isDir, attributes: appendOnly},
			{path: "a/b", kind: isFile, attributes: immutable},
		},
	},
	{"immutable all the way", []node{
		{path: "a", kind: isDir, attributes: immutable},
		{path: "a/b", kind: isDir, attributes: immutable | appendOnly},
		{path: "a/b/c", kind: isFile, attributes: immutable},
		{path: "a/b/fifo", kind: isFIFO},
		{path: "a/b/link", kind: isLink, target: "/etc"},
	}},
	{
		"hard links",
		[]node{
			{path: "a", kind: isFile},
			{path: "b", kind: isHardLink, target: "a", attributes: immutable},
		},
	},
}

func TestPurgeRemovesWhateverAPodLeaves(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			for _, tc := range litter {
				t.Run(tc.title, func(t *testing.T) {
					v := create(t, p, "v", mib)
					plant(t, dataPath(p, v.ID), tc.tree)
					remove(t, p, v.ID)
					waitPurged(t, p)
				})
			}
			closePool(t, p)
		})
	}
}

// An ext4 without the feature filetype does not say what an entry is (getdents64(2), DT_UNKNOWN);
// on others the purge knows directories.
func TestPurgeNeedsNoTypesOfEntries(t *testing.T) {
	for _, feature := range []string{"filetype", "^filetype"} {
		t.Run(feature, func(t *testing.T) {
			disk := disks.New(t, disks.Ext4, 16*mib, disks.MkfsArgs("-O", feature))
			p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
			v := create(t, p, "v", mib)
			writeTree(t, dataPath(p, v.ID), map[string]string{"a/b/": "", "a/f": "file", "f": "file"})
			remove(t, p, v.ID)
			waitPurged(t, p)
		})
	}
}

func poolOn(t *testing.T, fstype string) *Pool {
	t.Helper()
	disk := disks.New(t, fstype, 0)
	return openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
}

func plant(t *testing.T, root string, tree []node) {
	t.Helper()
	for _, n := range tree {
		if err := n.make(root); err != nil {
			t.Fatalf("%q: %v", n.path, err)
		}
	}
	for _, n := range tree {
		path := filepath.Join(root, n.path)
		if n.mode != 0 {
			if err := os.Chmod(path, os.FileMode(n.mode)); err != nil {
				t.Fatal(err)
			}
		}
		if n.attributes != 0 {
			setAttributes(t, path, n.attributes)
		}
	}
}

func (n node) make(root string) error {
	path := filepath.Join(root, n.path)
	switch n.kind {
	case isDir:
		return os.Mkdir(path, 0o755)
	case isFile:
		return os.WriteFile(path, []byte("content"), 0o600)
	case isLink:
		return os.Symlink(n.target, path)
	case isHardLink:
		return os.Link(filepath.Join(root, n.target), path)
	case isFIFO:
		return unix.Mkfifo(path, 0o600)
	case isSocket:
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return l.Close()
	case isDevice:
		return unix.Mknod(path, unix.S_IFCHR|0o600,
			int(unix.Mkdev(1, 3))) //nolint:gosec // /dev/null is a small number
	default:
		return fmt.Errorf("kind %d is unknown", n.kind)
	}
}

func setAttributes(t *testing.T, path string, attributes int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|attributes)
	}
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("needs a filesystem with attributes: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPurgeFollowsNoLink(t *testing.T) {
	p := newPool(t)
	host := t.TempDir()
	writeTree(t, host, map[string]string{"etc/passwd": "root", "etc/dir/file": "precious"})
	v := create(t, p, "v", mib)
	neighbour := create(t, p, "w", mib)
	writeTree(t, dataPath(p, neighbour.ID), map[string]string{"file": "precious"})
	plant(t, dataPath(p, v.ID), []node{
		{path: "to-dir", kind: isLink, target: filepath.Join(host, "etc")},
		{path: "to-file", kind: isLink, target: filepath.Join(host, "etc/passwd")},
		{path: "up", kind: isLink, target: "../../../.."},
		{path: "to-neighbour", kind: isLink, target: "../../w/data"},
		{path: "to-root", kind: isLink, target: "/"},
	})
	if err := os.Link(
		filepath.Join(host, "etc/passwd"),
		filepath.Join(dataPath(p, v.ID), "hard"),
	); err != nil {
		t.Fatal(err)
	}
	remove(t, p, v.ID)
	waitPurged(t, p)
	if got := listTree(t, host); got["etc/passwd"] != "root" || got["etc/dir/file"] != "precious" {
		t.Errorf("the host has %q", got)
	}
	if got := listTree(t, dataPath(p, neighbour.ID)); got["file"] != "precious" {
		t.Errorf("the volume beside it has %q", got)
	}
}

// A path of 10,000 components has no name that a system call takes, and a recursion as deep has no
// stack or descriptors.
func TestPurgeRemovesATreeOfAnyDepth(t *testing.T) {
	const depth = 10_000
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			v := create(t, p, "v", 100*mib)
			at, err := os.Open(dataPath(p, v.ID))
			if err != nil {
				t.Fatal(err)
			}
			for i := range depth {
				d, err := openat.Dir{File: at}.Mkdir("d")
				at.Close()
				if err != nil {
					t.Fatal(err)
				}
				if at = d.File; i%1000 == 500 {
					if err := d.WriteFile("file", []byte("content"), (*os.File).Sync); err != nil {
						t.Fatal(err)
					}
				}
			}
			at.Close()
			remove(t, p, v.ID)
			waitPurged(t, p)
		})
	}
}

// A deep directory is moved before it is emptied, which chattr(1) forbids as well.
func TestPurgeRemovesWhatIsImmutableAtAnyDepth(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p := poolOn(t, fstype)
			p.trash.RetryAfter = 5 * time.Millisecond
			v := create(t, p, "v", mib)
			root := dataPath(p, v.ID)
			at := filepath.Join(root, strings.Repeat("d/", 100))
			writeTree(t, at, map[string]string{"/": ""})
			for ; at != root; at = filepath.Dir(at) {
				setAttributes(t, at, immutable)
			}
			remove(t, p, v.ID)
			waitPurged(t, p)
		})
	}
}

// The mount may be another volume, or the host's root.
func TestPurgeEntersNoMount(t *testing.T) {
	for _, tc := range []struct {
		title string
		path  string // of the mount point in the volume
		kind  fileKind
	}{
		{"on a directory", "a/b/mnt", isDir},
		{"on a file", "a/b/mnt", isFile},
		{"on the data itself", "", isDir},
	} {
		t.Run(tc.title, func(t *testing.T) {
			p := newPool(t)
			p.trash.RetryAfter = 5 * time.Millisecond
			source := filepath.Join(t.TempDir(), "source")
			plant(t, source, []node{{kind: tc.kind}})
			if tc.kind == isDir {
				writeTree(t, source, map[string]string{"file": "precious"})
			}
			v := create(t, p, "v", mib)
			writeTree(t, dataPath(p, v.ID), map[string]string{"a/b/": "", "a/z": ""})
			point := filepath.Join(dataPath(p, v.ID), tc.path)
			if tc.path != "" {
				plant(t, point, []node{{kind: tc.kind}})
			}
			if err := unix.Mount(source, point, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			remove(t, p, v.ID)
			deleted := filepath.Join(p.opts.Path, trashDir,
				entries(t, filepath.Join(p.opts.Path, trashDir))[0])
			t.Cleanup(
				func() { _ = unix.Unmount(filepath.Join(deleted, dataEntry, tc.path), unix.MNT_DETACH) },
			)
			eventually(t, "the purge reports its failure",
				func() bool { return status(t, p).PurgesFailing == 1 })
			wantLedger(t, p, 0, mib)
			if _, err := os.Stat(filepath.Join(deleted, record.VolumeFile)); err != nil {
				t.Errorf("the record has gone before the data: %v", err)
			}
			if got := listTree(t, filepath.Dir(source)); got["source/file"] != "precious" &&
				got["source"] != "content" {
				t.Errorf("what was mounted there has %q", got)
			}
			if err := unix.Unmount(filepath.Join(deleted, dataEntry, tc.path), 0); err != nil {
				t.Fatal(err)
			}
			waitPurged(t, p)
			eventually(t, "the failure is over", func() bool { return status(t, p).PurgesFailing == 0 })
		})
	}
}
