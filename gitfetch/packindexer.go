package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

const (
	// maxDeltaDepth is git's (OE_DEPTH_BITS in pack-objects.h).
	maxDeltaDepth = 4095
	// leastObject is the size of an empty object in a pack: a byte, and what zlib makes of nothing.
	leastObject = 9
)

// packIndexer makes the index of a pack in a file, and finds what is wrong with the pack. It takes
// only bases of deltas into memory, and deltas. (go-git's takes each object: the largest file of a
// repository was bounded by the memory.)
type packIndexer struct {
	scanner *packfile.Scanner
	// objects are those that are no deltas, in their order, and then those that were deltas.
	objects []packObject
	// The deltas whose base is said by its offset, and those whose base is said by its hash. They are
	// sorted by it.
	byOffset, byHash []packDelta
	unresolved       int
}

// packObject is an object whose type and hash are known: no delta, or one that was resolved.
type packObject struct {
	at   int64 // its offset in the pack
	hash plumbing.Hash
	crc  uint32 // of it in the pack
	kind plumbing.ObjectType
}

// packDelta is an object that is made from another one.
type packDelta struct {
	at       int64
	crc      uint32
	resolved bool
	// One of the two.
	baseAt   int64
	baseHash plumbing.Hash
}

// indexPack errors: those of reading, and those that say what is wrong with the pack.
func indexPack(file *os.File) (*packIndex, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	x := &packIndexer{scanner: packfile.NewScanner(file)}
	checksum, err := x.scan(size)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(x.byOffset, func(a, b packDelta) int { return cmp.Compare(a.baseAt, b.baseAt) })
	slices.SortFunc(x.byHash, func(a, b packDelta) int {
		return compareHashes(a.baseHash, b.baseHash)
	})
	for _, b := range x.objects {
		if err := x.resolveAll(b); err != nil {
			return nil, err
		}
	}
	if x.unresolved > 0 {
		return nil, fault(gitwire.Malformed, "%d deltas without a base", x.unresolved)
	}
	return newPackIndex(x.objects, checksum), nil
}

func compareHashes(a, b plumbing.Hash) int { return bytes.Compare(a[:], b[:]) }

// scan reads the pack from its start to its end.
func (x *packIndexer) scan(size int64) (checksum plumbing.Hash, err error) {
	_, count, err := x.scanner.Header()
	if err != nil {
		return checksum, err
	}
	x.objects = make([]packObject, 0, min(int64(count), size/leastObject))
	for range count {
		h, err := x.scanner.NextObjectHeader()
		if err != nil {
			return checksum, err
		}
		if err := x.object(h); err != nil {
			return checksum, fmt.Errorf("object at %d: %w", h.Offset, err)
		}
	}
	return x.scanner.Checksum()
}

// object reads an object to its end. Nothing of it is kept but where it is.
func (x *packIndexer) object(h *packfile.ObjectHeader) error {
	hasher, to := plumbing.Hasher{}, io.Discard
	switch h.Type {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
		hasher = plumbing.NewHasher(h.Type, h.Length)
		to = hasher
	case plumbing.OFSDeltaObject, plumbing.REFDeltaObject:
	default:
		return fault(gitwire.Malformed, "an object of type %d", h.Type)
	}
	n, crc, err := x.scanner.NextObject(to)
	if err != nil {
		return err
	}
	if n != h.Length {
		return fault(gitwire.Malformed, "an object of %d bytes that says %d", n, h.Length)
	}
	d := packDelta{at: h.Offset, crc: crc, baseAt: h.OffsetReference, baseHash: h.Reference}
	switch h.Type {
	case plumbing.OFSDeltaObject:
		x.byOffset = append(x.byOffset, d)
		x.unresolved++
	case plumbing.REFDeltaObject:
		x.byHash = append(x.byHash, d)
		x.unresolved++
	default:
		b := packObject{at: h.Offset, hash: hasher.Sum(), crc: crc, kind: h.Type}
		x.objects = append(x.objects, b)
	}
	return nil
}

// resolveAll resolves the deltas of a base, and the deltas of these.
func (x *packIndexer) resolveAll(b packObject) error {
	if !x.hasDeltas(b) {
		return nil
	}
	content, err := x.inflate(b.at)
	if err != nil {
		return err
	}
	return x.resolve(b, content, 1)
}

// resolve resolves the deltas of an object. Of a chain of deltas without branches only one object
// is in memory.
func (x *packIndexer) resolve(b packObject, content []byte, depth int) error {
	for more := true; more; depth++ {
		if depth > maxDeltaDepth {
			return fault(gitwire.Malformed, "a chain of more than %d deltas", maxDeltaDepth)
		}
		var next packObject
		var nextContent []byte
		more = false
		for d := range x.deltasOf(b) {
			made, madeContent, err := x.apply(d, b, content)
			switch {
			case err != nil:
				return fmt.Errorf("object at %d: %w", d.at, err)
			case !x.hasDeltas(made):
			case !more:
				next, nextContent, more = made, madeContent, true
			default:
				if err := x.resolve(made, madeContent, depth+1); err != nil {
					return err
				}
			}
		}
		b, content = next, nextContent
	}
	return nil
}

// apply makes the object of a delta.
func (x *packIndexer) apply(
	d *packDelta, b packObject, content []byte,
) (packObject, []byte, error) {
	d.resolved = true
	x.unresolved--
	instructions, err := x.inflate(d.at)
	if err != nil {
		return packObject{}, nil, err
	}
	made, err := packfile.PatchDelta(content, instructions)
	if err != nil {
		return packObject{}, nil, err
	}
	hash := plumbing.ComputeHash(b.kind, made)
	result := packObject{at: d.at, hash: hash, crc: d.crc, kind: b.kind}
	x.objects = append(x.objects, result)
	return result, made, nil
}

// inflate reads an object, whose size has been checked.
func (x *packIndexer) inflate(at int64) ([]byte, error) {
	h, err := x.scanner.SeekObjectHeader(at)
	if err != nil {
		return nil, err
	}
	r, err := x.scanner.ReadObject()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content := make([]byte, h.Length)
	_, err = io.ReadFull(r, content)
	return content, err
}

func (x *packIndexer) hasDeltas(b packObject) bool {
	for range x.deltasOf(b) {
		return true
	}
	return false
}

// deltasOf are the deltas of an object that are not resolved. A pack may have an object twice.
func (x *packIndexer) deltasOf(b packObject) func(yield func(*packDelta) bool) {
	return func(yield func(*packDelta) bool) {
		i, _ := slices.BinarySearchFunc(x.byOffset, b.at, func(d packDelta, at int64) int {
			return cmp.Compare(d.baseAt, at)
		})
		for ; i < len(x.byOffset) && x.byOffset[i].baseAt == b.at; i++ {
			if d := &x.byOffset[i]; !d.resolved && !yield(d) {
				return
			}
		}
		i, _ = slices.BinarySearchFunc(x.byHash, b.hash, func(d packDelta, hash plumbing.Hash) int {
			return compareHashes(d.baseHash, hash)
		})
		for ; i < len(x.byHash) && x.byHash[i].baseHash == b.hash; i++ {
			if d := &x.byHash[i]; !d.resolved && !yield(d) {
				return
			}
		}
	}
}
