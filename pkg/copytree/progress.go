package copytree

import "sync/atomic"

// Stats counts what was copied.
type Stats struct {
	// Files are regular files, without further links to them.
	Files int64
	// Directories are those below the root.
	Directories int64
	// Others are symbolic links, FIFOs, sockets and device nodes.
	Others int64
	// Links are further names of what was copied already.
	Links int64
	// Bytes are those of content. Holes are none; a reflinked file has as many as are allocated to
	// it.
	Bytes int64
	// SharedBytes are those of Bytes that take no space, because they were reflinked.
	SharedBytes int64
	// AllocatedBytes are what it takes of the disk, in whole blocks: content, shared or not,
	// directories, and what the source's files take besides. Space that a file of the source has
	// allocated and not written counts, although it is not copied.
	AllocatedBytes int64
	// LeftOut are entries that are not in the copy by the policy, and mount points.
	LeftOut int64
	// Vanished are entries that were gone, or something else, when they were to be copied.
	Vanished int64
}

// Progress is the Stats of one copy that runs. Its zero value is ready.
type Progress struct {
	files, directories, others, links, bytes, sharedBytes, allocatedBytes, leftOut, vanished atomic.Int64
}

// Stats may be called at any time. Its numbers are not all of one instant.
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
