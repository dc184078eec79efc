// Package litter makes what pods leave in their volumes, for tests of what has to remove it.
package litter

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Kind is a kind of file.
type Kind int

// The kinds of files.
const (
	Dir Kind = iota
	File
	Link
	HardLink
	FIFO
	Socket
	Device
)

// The attributes of ioctl_iflags(2).
const (
	Immutable  = 0x10
	AppendOnly = 0x20
)

// Content is the content of every File.
const Content = "content"

// Node is one file of a tree.
type Node struct {
	Path       string // from the tree's root; empty for the root itself
	Kind       Kind
	Target     string // of a Link; of a HardLink, from the root
	Mode       uint32 // 0 is the default
	Attributes int
}

// Tree is a tree that a pod has left.
type Tree struct {
	Title string
	Nodes []Node
}

// trees has one tree for each trick that a removal has to know.
var trees = []Tree{
	{
		"files and directories",
		[]Node{
			{Path: "a", Kind: Dir},
			{Path: "a/b", Kind: Dir},
			{Path: "a/b/c", Kind: File},
			{Path: "d", Kind: File},
		},
	},
	{
		"odd names",
		[]Node{
			{Path: "new\nline", Kind: Dir},
			{Path: "new\nline/\xff", Kind: File},
			{Path: "-rf", Kind: File},
			{Path: "...", Kind: Dir},
		},
	},
	{
		"what is no file",
		[]Node{
			{Path: "fifo", Kind: FIFO},
			{Path: "socket", Kind: Socket},
			{Path: "null", Kind: Device},
		},
	},
	{
		"what nobody may enter or write",
		[]Node{
			{Path: "a", Kind: Dir, Mode: 0o100},
			{Path: "a/b", Kind: Dir},
			{Path: "a/b/c", Kind: File},
		},
	},
	{
		"dangling link",
		[]Node{
			{Path: "link", Kind: Link, Target: "nowhere"},
			{Path: "loop", Kind: Link, Target: "loop"},
		},
	},
	{"immutable file", []Node{{Path: "a", Kind: File, Attributes: Immutable}}},
	{"append-only file", []Node{{Path: "a", Kind: File, Attributes: AppendOnly}}},
	{
		"immutable directory",
		[]Node{
			{Path: "a", Kind: Dir, Attributes: Immutable},
			{Path: "a/b", Kind: File},
			{Path: "a/c", Kind: Dir},
		},
	},
	{
		"append-only directory",
		[]Node{
			{Path: "a", Kind: Dir, Attributes: AppendOnly},
			{Path: "a/b", Kind: File, Attributes: Immutable},
		},
	},
	{"immutable all the way", []Node{
		{Path: "a", Kind: Dir, Attributes: Immutable},
		{Path: "a/b", Kind: Dir, Attributes: Immutable | AppendOnly},
		{Path: "a/b/c", Kind: File, Attributes: Immutable},
		{Path: "a/b/fifo", Kind: FIFO},
		{Path: "a/b/link", Kind: Link, Target: "/etc"},
	}},
	{
		"hard links",
		[]Node{
			{Path: "a", Kind: File},
			{Path: "b", Kind: HardLink, Target: "a", Attributes: Immutable},
		},
	},
}

// Trees returns one tree for each trick that a removal has to know.
func Trees() []Tree { return trees }

// Plant makes nodes below a root that exists, in their order. It sets modes and attributes when all
// are there.
func Plant(t testing.TB, root string, nodes []Node) {
	t.Helper()
	for _, n := range nodes {
		if err := n.make(root); err != nil {
			t.Fatalf("%q: %v", n.Path, err)
		}
	}
	for _, n := range nodes {
		path := filepath.Join(root, n.Path)
		if n.Mode != 0 {
			if err := os.Chmod(path, os.FileMode(n.Mode)); err != nil {
				t.Fatal(err)
			}
		}
		if n.Attributes != 0 {
			SetAttributes(t, path, n.Attributes)
		}
	}
}

func (n Node) make(root string) error {
	path := filepath.Join(root, n.Path)
	switch n.Kind {
	case Dir:
		return os.Mkdir(path, 0o755)
	case File:
		return os.WriteFile(path, []byte(Content), 0o600)
	case Link:
		return os.Symlink(n.Target, path)
	case HardLink:
		return os.Link(filepath.Join(root, n.Target), path)
	case FIFO:
		return unix.Mkfifo(path, 0o600)
	case Socket:
		return makeSocket(path)
	case Device:
		null := int(unix.Mkdev(1, 3)) //nolint:gosec // a small number
		return unix.Mknod(path, unix.S_IFCHR|0o600, null)
	default:
		return fmt.Errorf("kind %d is unknown", n.Kind)
	}
}

func makeSocket(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// SetAttributes sets attributes of a file or a directory. It skips the test on a filesystem that
// has none.
func SetAttributes(t testing.TB, path string, attributes int) {
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
