package copytree

import (
	"fmt"
	"sync/atomic"

	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
)

// Stats counts what was copied.
type Stats struct {
	// Files counts regular files; further links to them are not counted.
	Files int64
	// Directories counts those below the root.
	Directories int64
	// Others counts symbolic links, FIFOs, sockets and device nodes.
	Others int64
	// Links counts further names of files that were copied already.
	Links int64
	// Bytes are those of content, without holes; of a reflinked file, the bytes that are allocated.
	Bytes int64
	// SharedBytes are the part of Bytes that was reflinked and takes no space.
	SharedBytes int64
	// AllocatedBytes are the bytes that the copy takes of the disk, in whole blocks: content, shared
	// or not, directories, and extended attributes. Space that a file of the source has allocated and
	// never written counts as well, although it is not copied.
	AllocatedBytes int64
	// LeftOut counts mount points, and entries that the policy excludes.
	LeftOut int64
	// Vanished counts entries that were gone, or had another type, when they were to be copied.
	Vanished int64
}

// Inodes is the number of inodes that the copy has below its root.
func (s Stats) Inodes() int64 { return s.Files + s.Directories + s.Others }

// Progress has the Stats of a running copy. Its zero value is ready to use.
type Progress struct {
	files, directories, others, links  atomic.Int64
	bytes, sharedBytes, allocatedBytes atomic.Int64
	leftOut, vanished                  atomic.Int64
	expected                           atomic.Int64
}

// Expect says about how many bytes the source has; 0: nobody knows.
func (p *Progress) Expect(bytes int64) { p.expected.Store(bytes) }

// Stats may be called at any time. The numbers may be of slightly different moments.
func (p *Progress) Stats() Stats {
	return Stats{
		Files:          p.files.Load(),
		Directories:    p.directories.Load(),
		Others:         p.others.Load(),
		Links:          p.links.Load(),
		Bytes:          p.bytes.Load(),
		SharedBytes:    p.sharedBytes.Load(),
		AllocatedBytes: p.allocatedBytes.Load(),
		LeftOut:        p.leftOut.Load(),
		Vanished:       p.vanished.Load(),
	}
}

// String says how far the copy is. It is for people: they see it in events.
func (p *Progress) String() string {
	s, expected := p.Stats(), p.expected.Load()
	entries := s.Inodes() + s.Links
	switch {
	case s.Bytes == 0 && entries == 0:
		return "nothing copied yet"
	case s.Bytes < expected: // pods may write while their volume is copied
		return fmt.Sprintf("%s of about %s copied, %d %%", quantity.Format(s.Bytes),
			quantity.Format(expected), int64(100*float64(s.Bytes)/float64(expected)))
	default:
		return fmt.Sprintf("%s in %d files and directories copied", quantity.Format(s.Bytes), entries)
	}
}
