package gittree

import (
	"errors"
	"strconv"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxName is NAME_MAX of Linux, in bytes.
	maxName = 255
	// maxPath is PATH_MAX of Linux without the NUL at the end, in bytes: of a path in the tree and of
	// a link's target.
	maxPath = 4095
	// maxDepth bounds the directories above an entry.
	maxDepth = 256
	// commitDigits is the length of a SHA-1 in hexadecimal digits.
	commitDigits = 40
	// shownBytes bounds what an error shows of a name.
	shownBytes = 120
)

var (
	errName     = errors.New("the name of an entry: want 1 to 255 bytes without a slash or a NUL")
	errDots     = errors.New(`"." or "..": want the name of an entry`)
	errDotGit   = errors.New("a name that some system reads as .git: want none in a tree")
	errLong     = errors.New("a path of more than 4095 bytes, which Linux cannot open")
	errDeep     = errors.New("more than 256 directories above an entry")
	errTarget   = errors.New("the target of a link: want 1 to 4095 bytes without a NUL")
	errAbsolute = errors.New("an absolute link: want one that stays in the tree")
	errLeaves   = errors.New("a link that leads out of the tree: want one that stays in the tree")
	errDotDot   = errors.New(`a link with ".." after the name of a directory: want ".." only at its start`)
)

// quote shows a hostile name in an error.
func quote(name string) string { return strconv.Quote(volume.Clip(name, shownBytes)) }

func isCommit(s string) bool {
	return len(s) == commitDigits && strings.Trim(s, "0123456789abcdef") == ""
}

// checkName checks one component of a path.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxName || strings.ContainsAny(name, "/\x00"):
		return errName
	case name == "." || name == "..":
		return errDots
	case isDotGit(name):
		return errDotGit
	}
	return nil
}

// checkDir checks the path of a directory, which may be empty: the tree's root.
func checkDir(path string) error {
	if path == "" {
		return nil
	}
	depth := 0
	for name := range strings.SplitSeq(path, "/") {
		if err := checkName(name); err != nil {
			return err
		}
		if depth++; depth > maxDepth {
			return errDeep
		}
	}
	return nil
}

// isDotGit reports whether a name is .git, or becomes .git on a filesystem of another system: case
// does not matter to NTFS and HFS+; NTFS drops dots and spaces at the end, takes what follows a
// colon for a stream and git~1 for a short name; HFS+ ignores some code points. (git's fsck refuses
// the same names: is_hfs_dotgit and is_ntfs_dotgit, since CVE-2014-9390.)
func isDotGit(name string) bool {
	if c := name[0]; c != '.' && c != 'g' && c != 'G' && c < 0x80 {
		return false // all but a few names end here
	}
	name, _, _ = strings.Cut(strings.Map(dropIgnorable, name), ":")
	name = strings.TrimRight(name, ". ")
	return strings.EqualFold(name, ".git") || strings.EqualFold(name, "git~1")
}

// dropIgnorable drops the code points that HFS+ ignores in names (TN1150).
func dropIgnorable(r rune) rune {
	switch {
	case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f,
		r == 0xfeff:
		return -1
	}
	return r
}

// checkTarget checks the target of a symbolic link that has depth directories above it in the tree.
//
// The target may go up with ".." at its start only, and at most to the root. Whatever links it then
// goes through, it stays in the tree: the directory that the link is in is a real one at that
// depth, so the ".." end at a real directory of the tree; what follows goes down, or through
// another link, for which the same holds.
func checkTarget(target string, depth int) error {
	switch {
	case target == "" || len(target) > maxPath || strings.Contains(target, "\x00"):
		return errTarget
	case target[0] == '/':
		return errAbsolute
	}
	down := false
	for name := range strings.SplitSeq(target, "/") {
		switch {
		case name == "" || name == ".":
		case name != "..":
			down = true
		case down:
			return errDotDot
		default:
			depth--
		}
		if depth < 0 {
			return errLeaves
		}
	}
	return nil
}
